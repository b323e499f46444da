#!/usr/bin/env python3
"""Checks the second implementation of KLP against the vectors: vectors.py tests/vectors/klp"""
import json
import sys

import klp


def main(directory):
    wrong, count = [], 0

    def check(name, found, expected):
        nonlocal count
        count += 1
        if found != expected:
            wrong.append(f"{name}: expected {expected!r}, found {found!r}")

    def load(name):
        with open(f"{directory}/{name}.json", encoding="utf-8") as file:
            return json.load(file)

    def refused(name, case, defaults=None):
        try:
            found = ("accepted", klp.decode(case["line"], defaults)[0])
        except klp.Refused as error:
            found = (error.code, error.field)
        check(name, found, (case["code"], case["field"]))

    stdio = load("stdio")
    for defaults, cases in ((None, load("valid")), (stdio["defaults"], stdio["valid"])):
        for case in cases:
            try:
                envelope = klp.decode(case["line"], defaults)[0]
            except klp.Refused as error:
                envelope = str(error)
            check(case["name"], envelope, case["envelope"])
    for case in load("invalid"):
        refused(case["name"], case)
    for case in stdio["invalid"]:
        refused(case["name"], case, stdio["defaults"])
    signatures = load("signatures")
    for case in signatures["cases"]:
        sent = klp.read(case["line"])
        check(case["name"], klp.verdict(sent, case["key"]), case["verdict"])
        if case.get("signing_input"):
            check(case["name"] + ", text", klp.signing_input(sent).decode(), case["signing_input"])
        if case["verdict"] == "ok" and "key" in sent["auth"]:
            again = klp.sign(sent, bytes.fromhex(signatures["secret"]))
            check(case["name"] + ", signed again", again, sent)
    for case in signatures["foreign"]:
        check(case["name"], klp.verdict(klp.read(case["line"]), case["key"]), case["verdict"])
    addresses = load("addresses")
    for text in addresses["valid"]:
        check(f"address {text}", klp.is_address(text), True)
    for text in addresses["invalid"]:
        check(f"address {text[:60]}", klp.is_address(text), False)
    for pattern, topic in addresses["matches"]:
        check(f"{pattern} matches {topic}", klp.matches(pattern, topic), True)
    for pattern, topic in addresses["differs"]:
        check(f"{pattern} matches {topic}", klp.matches(pattern, topic), False)
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{count} vectors agree")


if __name__ == "__main__":
    main(sys.argv[1])
