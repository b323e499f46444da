//! What expressions answer, refuse, and never do.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn ids() -> BTreeSet<&'static str> {
    BTreeSet::from(["a", "b-c", "b", "in", "2nd"])
}

#[track_caller]
fn value(text: &str) -> Result<Value, String> {
    let input = json!({"n": 3, "x": 2.5, "list": [1, 2, 3], "name": "ann", "big": vec![1; 5000]});
    let steps = BTreeMap::from([
        (
            "a",
            json!({"output": {"ok": true, "items": ["p", "q"]}, "state": "succeeded"}),
        ),
        ("b-c", json!({"output": 7})),
        ("in", json!({"output": 8})),
        ("2nd", json!({"output": 9})),
    ]);
    let item = json!("it");
    let scope = Scope {
        item: Some(&item),
        index: Some(2),
        round: Some(1),
        ..Scope::new(&input, steps)
    };
    let expression = Expression::read(text, &ids()).map_err(|e| e.to_string())?;
    expression.evaluate(&scope).map_err(|e| e.why)
}

#[test]
fn values_keep_their_types() {
    let cases = [
        ("input.n + 1", json!(4)),
        ("input.x * 2.0", json!(5.0)),
        ("input.n > 2 && steps.a.output.ok", json!(true)),
        ("input.list.map(i, i * 2)", json!([2, 4, 6])),
        ("input.list.filter(i, i > 1).size()", json!(2)),
        ("size(steps.a.output.items)", json!(2)),
        ("'hello ' + input.name", json!("hello ann")),
        ("has(input.missing) ? 1 : 2", json!(2)),
        ("steps.b-c.output - 1", json!(6)),
        ("steps['b-c'].output", json!(7)),
        ("steps.in.output + steps.2nd.output", json!(17)),
        ("steps.a.state == 'succeeded'", json!(true)),
        ("{'k': item, 'i': index}", json!({"k": "it", "i": 2})),
        ("string(input.n)", json!("3")),
        ("'p' in steps.a.output.items", json!(true)),
        ("input.list.exists(i, i == 3)", json!(true)),
        ("null", Value::Null),
        ("round == 1", json!(true)),
    ];
    for (text, expected) in cases {
        assert_eq!(value(text), Ok(expected), "{text}");
    }
}

#[test]
fn whole_numbers_that_json_does_not_carry_exactly_do_not_leave() {
    assert_eq!(
        value("9007199254740991").unwrap(),
        json!(9_007_199_254_740_991_i64)
    );
    assert_eq!(
        value("-9007199254740991").unwrap(),
        json!(-9_007_199_254_740_991_i64)
    );
    for text in [
        "9007199254740991 + 1",
        "[-9007199254740992]",
        "{'a': 9007199254740991u * 2u}",
    ] {
        let why = value(text).unwrap_err();
        assert!(why.contains("9007199254740991"), "{text}: {why}");
    }
    assert_eq!(
        value("string(9007199254740991 + 1)").unwrap(),
        json!("9007199254740992")
    );
}

#[test]
fn what_cannot_be_read_is_refused_with_the_reason() {
    let cases = [
        ("1 +", "not a CEL expression"),
        ("", "not a CEL expression"),
        ("inputs.n", "unknown variable \"inputs\""),
        ("steps", "name one step"),
        ("steps[input.n]", "name one step"),
        ("1 + 'a'", "type mismatch"),
        ("true > 1", "type mismatch"),
        ("1 && true", "type mismatch"),
        ("(1).map(x, x)", "type mismatch"),
        ("1 / 0", "ivision"),
        ("Foo{a: 1}", "unknown type"),
    ];
    for (text, expected) in cases {
        let error = Expression::read(text, &ids())
            .map(drop)
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn types_that_show_are_known() {
    let cases = [
        ("input.n > 1", Some(Kind::Bool)),
        ("size(input.list)", Some(Kind::Int)),
        ("input.list.map(x, x)", Some(Kind::List)),
        ("input.list.all(x, x > 0)", Some(Kind::Bool)),
        ("'a' + input.name", Some(Kind::Text)),
        ("input.n", None),
    ];
    for (text, expected) in cases {
        let kind = Expression::read(text, &ids()).unwrap().kind();
        assert_eq!(kind, expected, "{text}");
    }
}

#[test]
fn work_is_bounded_before_it_is_done() {
    let nested = "input.big.map(a, input.big.map(b, a + b))";
    assert!(value(nested).unwrap_err().contains("do it in an agent"));
    let deep = format!("{}1{}", "(".repeat(200), ")".repeat(200));
    assert!(Expression::read(&deep, &ids()).is_err());
    // As deep as is let through at all, on the small stack that workers have.
    for deepest in [
        format!(
            "{}1{}",
            "(".repeat(EXPRESSION_OPERATORS_MAX),
            ")".repeat(EXPRESSION_OPERATORS_MAX)
        ),
        vec!["1"; EXPRESSION_OPERATORS_MAX].join("+"),
        "[".repeat(EXPRESSION_OPERATORS_MAX),
        "!".repeat(EXPRESSION_OPERATORS_MAX),
        format!("input{}", ".n".repeat(EXPRESSION_OPERATORS_MAX)),
    ] {
        assert!(Expression::read(&deepest, &ids()).is_err(), "{deepest}");
    }
    let deep = vec!["input.n"; EXPRESSION_DEPTH_MAX - 2].join("+");
    assert_eq!(value(&deep), Ok(json!(3 * (EXPRESSION_DEPTH_MAX - 2))));
    let long = vec!["1"; 900].join("+");
    assert!(Expression::read(&long, &ids()).is_err());
    let huge = "1".repeat(EXPRESSION_BYTES_MAX + 1);
    assert!(Expression::read(&huge, &ids()).is_err());
    assert!(value("input.big.map(a, 'x' + string(a)).size()").is_ok());
}

#[test]
fn texts_are_split_at_expressions() {
    let plain = |text: &str| Piece::Plain(text.to_owned());
    assert_eq!(
        pieces("a ${x} b"),
        Ok(vec![plain("a "), Piece::Expression("x"), plain(" b")])
    );
    assert_eq!(
        pieces("${{'a': '}'}}"),
        Ok(vec![Piece::Expression("{'a': '}'}")])
    );
    assert_eq!(pieces("$${x}"), Ok(vec![plain("${x}")]));
    assert_eq!(pieces(""), Ok(vec![plain("")]));
    assert!(pieces("a ${x").is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_it_panic(text in ".{0,60}") {
        let _either = value(&text);
        let _either = pieces(&text);
    }

    #[test]
    fn no_mixture_of_its_words_makes_it_panic(
        words in prop::collection::vec(prop::sample::select(vec![
            "input", ".", "n", "list", "steps", "a", "output", "[", "]", "(", ")", "+", "-", "*", "/", "%",
            "1", "0", "2.5", "'t'", "true", "null", "map", "filter", "x", ",", "==", "<", "&&", "||", "!", "?", ":",
            "has", "size", "in", "{", "}", "exists", "-9223372036854775808", "int", "string", "double", "1u", "b'x'",
            "item", "index", "matches", "startsWith", "type", "bytes", "dyn", "max", "min",
        ]), 0..14),
    ) {
        let _either = value(&words.join(""));
        let _either = value(&words.join(" "));
    }
}
