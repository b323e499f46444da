use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::identity::SigningKey;
use crate::schema::Checker;

const CALENDAR_AGENT: &str = include_str!("../../../config/agents/calendarAgent/manifest.json");

fn minimal() -> Value {
    json!({ "id": "echo", "version": "1.0.0", "capabilities": ["echo"], "entry": "main.py" })
}

fn with(path: &str, value: Value) -> Value {
    let mut manifest = minimal();
    let mut at = &mut manifest;
    for key in path.split('.') {
        at = &mut at[key];
    }
    *at = value;
    manifest
}

fn parse(manifest: &Value) -> Result<ParsedManifest, ManifestErrors> {
    parse_manifest(manifest.to_string().as_bytes(), ManifestFormat::Json)
}

#[track_caller]
fn accepted(manifest: &Value) -> ParsedManifest {
    parse(manifest).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn refused(manifest: &Value, expected: &[&str]) {
    let errors = parse(manifest).expect_err("must be refused");
    assert_eq!(errors.to_string().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn calendar_agent_loads_unchanged() {
    let parsed = parse_manifest(CALENDAR_AGENT.as_bytes(), ManifestFormat::Json).unwrap();
    let manifest = &parsed.manifest;
    assert_eq!(manifest.id.as_str(), "calendarAgent");
    assert_eq!(manifest.version, semver::Version::new(1, 0, 3));
    assert_eq!(manifest.persona, Persona::Assistant);
    assert_eq!(manifest.memory.max_size.unwrap().bytes(), 50_000_000);
    assert_eq!(
        manifest
            .security
            .network_access
            .allowed_domains
            .as_ref()
            .unwrap()[1],
        "outlook.office.com"
    );
    let runtime = manifest.resolved_runtime();
    assert_eq!(
        (runtime.program, runtime.args),
        (Program::Host("node".into()), vec!["main.ts".to_owned()])
    );
    assert_eq!(parsed.notices.len(), 2, "{:?}", parsed.notices);
    assert_eq!(parsed.notices[0].path, "memory.backend");
    assert_eq!(parsed.notices[1].path, "security.permissions[0].resource");
}

#[test]
fn what_is_left_out_is_the_least_privilege() {
    let manifest = accepted(&minimal()).manifest;
    assert!(manifest.security.sandbox);
    assert!(!manifest.security.network_access.allow_outbound);
    assert_eq!(manifest.security.permissions, None);
    assert_eq!(
        manifest.security.file_access,
        FileAccessPolicy {
            allowed_paths: vec![],
            read_only: true,
            temp_file_access: false
        }
    );
    assert_eq!(
        (manifest.memory.kind, manifest.memory.is_persistent()),
        (MemoryType::Volatile, false)
    );
    assert_eq!((manifest.concurrency.get(), manifest.replicas), (1, 1));
    assert_eq!(manifest.heartbeat, None);
    assert_eq!(manifest.policy.overrides(), PolicyOverrides::default());
}

#[test]
fn a_manifest_reads_back_equal() {
    for text in [CALENDAR_AGENT, &minimal().to_string()] {
        let first = parse_manifest(text.as_bytes(), ManifestFormat::Json)
            .unwrap()
            .manifest;
        let written = serde_json::to_value(&first).unwrap();
        assert_eq!(accepted(&written).manifest, first);
    }
}

#[test]
fn yaml_and_json_are_the_same_manifest() {
    let yaml = "id: echo\nversion: 1.0.0\ncapabilities: [echo]\nentry: main.py\n";
    let from_yaml = parse_manifest(yaml.as_bytes(), ManifestFormat::Detect).unwrap();
    assert_eq!(from_yaml.manifest, accepted(&minimal()).manifest);
    assert!(
        parse_manifest(
            format!("{yaml}id: other\n").as_bytes(),
            ManifestFormat::Yaml
        )
        .is_err()
    );
}

#[test]
fn every_error_is_reported_at_once_with_its_path() {
    let mut manifest = minimal();
    manifest["version"] = json!("1.0");
    manifest["persona"] = json!("assistent");
    manifest["capabilites"] = json!([]);
    manifest["entry"] = json!("../main.py");
    manifest["memory"] = json!({ "type": "volatile", "persistent": true });
    manifest["security"] = json!({ "networkAccess": {
        "allowOutbound": true, "allowedDomains": ["example.com", "*", "not a domain"] } });
    manifest["metadata"] = json!({ "created": "yesterday" });
    manifest["dependencies"] = json!([{ "name": "x", "version": "one", "type": "module" }]);
    refused(
        &manifest,
        &[
            "capabilites: unknown key; did you mean \"capabilities\"?",
            "dependencies[0].version: \"one\" is not a version requirement such as ^2.29.0: unexpected character 'o' while parsing major version number",
            "entry: \"../main.py\" leaves the bundle; give a path relative to it, without ..",
            "memory.persistent: true contradicts type volatile",
            "metadata.created: \"yesterday\" is not a date-time",
            "persona: \"assistent\" is not one of assistant, specialist, guardian, orchestrator, utility, companion; did you mean \"assistant\"?",
            "security.networkAccess.allowedDomains[2]: \"not a domain\" is not a domain name such as example.com or *.example.com, or * for every name",
            "version: \"1.0\" is not a semantic version such as 1.0.3",
        ],
    );
}

#[test]
fn contradictions_are_reported_beside_what_the_schema_refuses() {
    let mut manifest = minimal();
    manifest["colour"] = json!("red");
    manifest["entry"] = json!("builtin:nope");
    manifest["replicas"] = json!(100_000);
    manifest["memory"] = json!({ "tll": 5, "maxSize": 0 });
    manifest["profiles"] = json!({ "other": { "idempotent": true } });
    manifest["secrets"] = json!([{ "name": "a", "from": "vault://a@b", "mode": "mount", "mod": 1 },
        { "name": "a", "from": "vault://a@b", "mode": "mount" }]);
    manifest["policy"] =
        json!({ "maxCrashes": 1000, "lifecycle": { "max_crashes": 4_294_967_296_u64 } });
    refused(
        &manifest,
        &[
            "colour: unknown key",
            "entry: meshd brings no agent \"nope\"; there are analyst, echo, fragile-analyst, planner, reporter",
            "memory.maxSize: must be more than nothing; leave it out for the mesh's own limit",
            "memory.tll: unknown key; did you mean \"ttl\"?",
            "policy.lifecycle.max_crashes: 4294967296 is out of range; expected 0 to 999",
            "policy.maxCrashes: 1000 is out of range; expected 0 to 999",
            "profiles.other: not a capability of this manifest",
            "replicas: 100000 is out of range; expected 0 to 256",
            "secrets[0].mod: unknown key; did you mean \"mode\"?",
            "secrets[1].name: a is listed twice",
        ],
    );
}

#[test]
fn an_agent_that_can_do_nothing_is_refused() {
    let errors = parse(&with("capabilities", json!([]))).expect_err("nothing to do");
    assert_eq!(errors.errors()[0].path, "capabilities", "{errors}");
}

#[test]
fn missing_fields_are_named() {
    refused(
        &json!({}),
        &[
            "capabilities: required, but missing",
            "entry: required, but missing; give entry, or runtime with a command",
            "id: required, but missing",
            "version: required, but missing",
        ],
    );
    accepted(
        &json!({ "id": "a", "version": "1.0.0", "capabilities": ["x"], "runtime": { "command": "cat", "kind": "command" } }),
    );
}

#[test]
fn unknown_keys_are_refused_but_under_extensions() {
    refused(
        &with("memory", json!({ "tll": 5 })),
        &["memory.tll: unknown key; did you mean \"ttl\"?"],
    );
    refused(
        &with("policy", json!({ "lifecycle": { "maxCrashes": 1 } })),
        &["policy.lifecycle.maxCrashes: unknown key; did you mean \"max_crashes\"?"],
    );
    let kept = accepted(&with("extensions", json!({ "vendor": { "any": [1] } }))).manifest;
    assert_eq!(kept.extensions["vendor"], json!({ "any": [1] }));
}

#[test]
fn a_port_is_one_that_can_be_dialled() {
    let ports = |ports: Value| {
        let access = json!({"networkAccess": {"allowOutbound": true, "allowedDomains": ["a.test"], "allowedPorts": ports}});
        parse(&with("security", access))
    };
    assert!(ports(json!([1, 443, 65_535])).is_ok());
    for wrong in [0, 65_536, -1] {
        let error = ports(json!([443, wrong])).unwrap_err().to_string();
        assert!(error.contains("allowedPorts[1]"), "{error}");
    }
}

#[test]
fn both_spellings_of_the_policy_are_one() {
    let flat = json!({ "maxCrashes": 2, "autoRestart": false, "memoryLimit": 256, "cpuLimit": 50, "sandbox": true,
        "networkLimit": { "maxConnections": 4, "bandwidthLimit": 100, "allowedProtocols": ["https"] } });
    let nested = json!({ "resource_limits": { "cpu": 0.5, "memory": "256MB" },
        "lifecycle": { "max_crashes": 2, "auto_restart": false }, "sandbox": true,
        "networkLimit": { "maxConnections": 4, "bandwidthLimit": 100, "allowedProtocols": ["https"] } });
    let flat = accepted(&with("policy", flat)).manifest.policy.overrides();
    assert_eq!(
        flat,
        accepted(&with("policy", nested))
            .manifest
            .policy
            .overrides()
    );
    assert_eq!(
        (flat.cpu.unwrap().millicores(), flat.memory.unwrap().bytes()),
        (500, 256_000_000)
    );
    refused(
        &with(
            "policy",
            json!({ "maxCrashes": 2, "lifecycle": { "max_crashes": 3 }, "agentId": "other" }),
        ),
        &[
            "policy.agentId: is other, but this is the manifest of echo",
            "policy.maxCrashes: contradicts policy.lifecycle.max_crashes",
        ],
    );
}

#[test]
fn memory_that_contradicts_itself_is_refused() {
    for memory in [
        json!({ "type": "volatile", "persistent": true }),
        json!({ "type": "persistent", "persistent": false }),
        json!({ "type": "hybrid", "persistent": false }),
        json!({ "type": "persistent", "backend": "memory" }),
        json!({ "type": "volatile", "backend": "sqlite" }),
    ] {
        assert!(parse(&with("memory", memory.clone())).is_err(), "{memory}");
    }
    assert!(
        accepted(&with("memory", json!({ "type": "hybrid" })))
            .manifest
            .memory
            .is_persistent()
    );
}

#[test]
fn entry_stays_inside_the_bundle() {
    for entry in [
        "/bin/sh",
        "../x",
        "a/../../x",
        "a/..",
        "builtin:",
        "builtin:a/b",
        "",
    ] {
        assert!(parse(&with("entry", json!(entry))).is_err(), "{entry}");
    }
    for entry in ["main.py", "./main", "bin/agent", "builtin:planner", "a..b"] {
        accepted(&with("entry", json!(entry)));
    }
}

#[test]
fn runtime_is_inferred_from_the_entry() {
    let resolved = |entry: &str, runtime: Value| {
        let mut manifest = with("entry", json!(entry));
        manifest["runtime"] = runtime;
        let runtime = accepted(&manifest).manifest.resolved_runtime();
        (runtime.program, runtime.args)
    };
    let host = |name: &str| Program::Host(name.to_owned());
    assert_eq!(
        resolved("a.py", json!({})),
        (host("python3"), vec!["a.py".into()])
    );
    assert_eq!(
        resolved("a.mjs", json!({ "args": ["-v"] })),
        (host("node"), vec!["a.mjs".into(), "-v".into()])
    );
    assert_eq!(
        resolved("bin/a", json!({})),
        (Program::Bundle("bin/a".into()), vec![])
    );
    assert_eq!(
        resolved("builtin:echo", json!({})),
        (Program::Builtin("echo".into()), vec![])
    );
    assert_eq!(
        resolved("a.ts", json!({ "command": "deno", "args": ["run"] })),
        (host("deno"), vec!["run".into(), "a.ts".into()])
    );
    refused(
        &with("runtime", json!({ "kind": "native" })),
        &["runtime.kind: native runs parts of meshd only; entry must be builtin:<name>"],
    );
    refused(
        &with("runtime", json!({ "kind": "docker" })),
        &["runtime.kind: \"docker\" is not one of klp, command, native"],
    );
}

#[test]
fn durations_and_sizes_have_several_spellings() {
    let manifest = accepted(&with(
        "heartbeat",
        json!({ "interval": "500ms", "ttl": 2000 }),
    ))
    .manifest;
    assert_eq!(
        manifest.heartbeat,
        Some(Heartbeat {
            interval: Span::from_millis(500),
            ttl: Span::from_secs(2)
        })
    );
    refused(
        &with("heartbeat", json!({ "interval": "5 s" })),
        &[
            "heartbeat.interval: \"5 s\" is not a duration such as 500ms, 5s, 10m, 24h, 7d, or a number of milliseconds",
        ],
    );
    refused(
        &with("heartbeat", json!({ "interval": "20s" })),
        &["heartbeat.ttl: 15s is not longer than the interval, 20s"],
    );
}

#[test]
fn profiles_belong_to_capabilities_and_hold_schemas() {
    accepted(&with(
        "profiles",
        json!({ "echo": { "input": { "type": "object" }, "timeout": "5s", "cost": 0.2 } }),
    ));
    refused(
        &with("profiles", json!({ "other": {} })),
        &["profiles.other: not a capability of this manifest"],
    );
    assert!(
        parse(&with(
            "profiles",
            json!({ "echo": { "output": { "type": "objekt" } } })
        ))
        .is_err()
    );
    assert!(
        parse(&with(
            "profiles",
            json!({ "echo": { "output": { "$ref": "file:///etc/passwd" } } })
        ))
        .is_err()
    );
}

#[test]
fn weaker_security_is_accepted_with_a_notice() {
    let parsed = accepted(&with(
        "security",
        json!({ "sandbox": false, "crypto": "none" }),
    ));
    let paths: Vec<_> = parsed
        .notices
        .iter()
        .map(|notice| notice.path.as_str())
        .collect();
    assert_eq!(paths, ["security.crypto", "security.sandbox"]);
    assert_eq!(parsed.manifest.declines_sandbox(), Some("security.sandbox"));
    let parsed = accepted(&with("policy", json!({ "sandbox": false })));
    assert_eq!(parsed.manifest.declines_sandbox(), Some("policy.sandbox"));
    let mut both = with("policy", json!({ "sandbox": true }));
    both["security"] = json!({ "sandbox": false });
    refused(
        &both,
        &["security.sandbox: is false, and policy.sandbox is true; leave one of them out"],
    );
}

#[test]
fn secrets_are_references_and_brokered_ones_name_their_domains() {
    accepted(&with(
        "secrets",
        json!([{ "name": "token", "from": "vault://token@kai", "domains": ["api.example.com"] }]),
    ));
    refused(
        &with(
            "secrets",
            json!([{ "name": "token", "from": "vault://token@kai" }, { "name": "t", "from": "hunter2", "mode": "mount" }]),
        ),
        &[
            "secrets[0].domains: a brokered secret names the domains whose requests it is added to",
            "secrets[1].from: \"hunter2\" is not a reference such as vault://name@store",
        ],
    );
}

#[test]
fn publisher_signature_covers_every_byte_of_meaning() {
    let key = SigningKey::from_secret(&[3; 32]);
    let mut manifest = minimal();
    manifest["signature"] = json!({ "key": key.public().to_string() });
    let signature = key.sign(&manifest_signing_input(&manifest));
    manifest["signature"]["signature"] = json!(signature.to_string());
    let source = accepted(&manifest).source;
    assert_eq!(
        verify_manifest_signature(&source).unwrap().key,
        key.public()
    );
    let mut changed = source;
    changed["replicas"] = json!(2);
    assert!(matches!(
        verify_manifest_signature(&changed),
        Err(ManifestSignatureError::Bad(_))
    ));
    assert_eq!(
        verify_manifest_signature(&minimal()),
        Err(ManifestSignatureError::Missing)
    );
}

/// Changes one value somewhere in a manifest.
fn mutate(value: &mut Value, steps: &[usize], with: &Value) {
    let Some((step, rest)) = steps.split_first() else {
        *value = with.clone();
        return;
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let index = step % map.len();
            if let Some((_, inner)) = map.iter_mut().nth(index) {
                mutate(inner, rest, with);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let index = step % items.len();
            mutate(&mut items[index], rest, with);
        }
        other => *other = with.clone(),
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..2000).prop_map(Value::from),
        prop_oneof![
            Just("512MB"),
            Just("5s"),
            Just("50%"),
            Just("../x"),
            Just("/tmp"),
            Just("a.b"),
            Just("")
        ]
        .prop_map(Value::from),
        "[a-zA-Z0-9 ./:*-]{0,12}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!(["x"])),
        Just(json!({ "x": 1 })),
    ]
}

fn rich() -> Value {
    let mut manifest: Value = serde_json::from_str(CALENDAR_AGENT).unwrap();
    manifest["heartbeat"] = json!({ "interval": "1s", "ttl": "5s" });
    manifest["policy"] = json!({ "maxCrashes": 2, "cpuLimit": 50, "resource_limits": { "cpu": 0.5, "memory": "1GB" },
        "lifecycle": { "max_crashes": 2 }, "security": { "sandbox_level": "strict" } });
    manifest["runtime"] = json!({ "kind": "klp", "command": "node", "args": ["a"], "env": { "A": "b" }, "workdir": "x" });
    manifest["profiles"] = json!({ "cancelEvent": { "input": {}, "cost": 1, "timeout": 5 } });
    manifest["budget"] = json!({ "per": "1h", "maxAttempts": 5, "calls": 7, "money": "1.5", "provider": "acme", "team": "red" });
    manifest["secrets"] = json!([{ "name": "t", "from": "vault://a@b", "mode": "mount" }]);
    manifest
}

#[test]
fn variables_of_meshds_own_are_not_a_manifests_to_set() {
    for (name, is_own) in [
        ("MESH_AGENT", true),
        ("mesh_claims", true),
        ("MESHES", false),
    ] {
        let mut manifest = rich();
        manifest["runtime"]["env"] = json!({ name: "x" });
        assert_eq!(parse(&manifest).is_err(), is_own, "{name}");
    }
}

#[test]
fn a_level_of_the_sandbox_is_known_by_each_of_its_names() {
    for (name, level) in [
        ("relaxed", SandboxLevel::Relaxed),
        ("basic", SandboxLevel::Relaxed),
        ("strict", SandboxLevel::Strict),
        ("enhanced", SandboxLevel::Strict),
        ("maximum", SandboxLevel::Maximum),
    ] {
        let mut manifest = rich();
        manifest["policy"]["security"]["sandbox_level"] = json!(name);
        let parsed = accepted(&manifest).manifest;
        assert_eq!(parsed.policy.security.sandbox_level, Some(level), "{name}");
    }
}

proptest! {
    #[test]
    fn schema_and_parser_agree(steps in prop::collection::vec(0_usize..40, 1..5), with in any_value()) {
        let mut manifest = rich();
        mutate(&mut manifest, &steps, &with);
        let checker = Checker::new(manifest_schema().clone()).unwrap();
        let violations = checker.check(&manifest);
        match parse(&manifest) {
            Ok(parsed) => {
                prop_assert!(violations.is_empty(), "accepted against its schema: {:?}", violations);
                // What is written conforms, too, and means the same.
                let written = serde_json::to_value(&parsed.manifest).unwrap();
                prop_assert_eq!(accepted(&written).manifest, parsed.manifest);
            }
            // Refused by the schema, or by a check that a schema cannot express; never by a quarrel of the two.
            Err(errors) if violations.is_empty() => {
                prop_assert!(AgentManifest::deserialize(&manifest).is_ok(), "conforms, but cannot be read: {}", errors);
            }
            Err(errors) => prop_assert!(violations.iter().all(|v| errors.errors().contains(v))),
        }
    }
}
