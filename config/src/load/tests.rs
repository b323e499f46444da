use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// The two documents that users copy, in one file.
const TWO_DOCUMENTS: &str = "\
orchestrator:
  retry:
    max_attempts: 3
    delay_strategy: exponential
    base_delay_ms: 200
    jitter: true
  
  policies:
    fallback_on_error: true
    allow_cross_agent: true
    max_parallel_tasks: 5
  
  security:
    sandbox_required: true
    trust_threshold: 0.7
    audit_all_actions: true

default_policy:
  resource_limits:
    cpu: 1.0
    memory: 512MB
    disk: 1GB
  
  lifecycle:
    max_crashes: 3
    auto_restart: true
    quarantine_threshold: 5
  
  security:
    sandbox_level: strict
    crypto_required: true
";

fn file(text: &str) -> Sources {
    Sources {
        file: Some((PathBuf::from("meshd.yaml"), text.as_bytes().to_vec())),
        ..Sources::default()
    }
}

fn env(pairs: &[(&str, &str)]) -> Sources {
    let env = pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    Sources {
        env,
        ..Sources::default()
    }
}

#[track_caller]
fn loads(sources: &Sources) -> (Config, Origins) {
    Config::load(sources).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn refused(sources: &Sources, expected: &[&str]) {
    let errors = Config::load(sources).expect_err("must be refused");
    assert_eq!(errors.to_string().lines().collect::<Vec<_>>(), expected);
}

#[test]
fn an_empty_file_is_exactly_the_defaults() {
    for text in [
        "",
        "\n",
        "# only a comment\n",
        "{}",
        "orchestrator:\napi:\n  rate_limit:\n",
    ] {
        assert_eq!(loads(&file(text)).0, Config::default(), "{text:?}");
    }
    let config = Config::default();
    assert_eq!(config.orchestrator.retry.max_attempts, 3);
    assert_eq!(config.orchestrator.retry.base_delay_ms, 200);
    assert_eq!(config.orchestrator.policies.max_parallel_tasks, 5);
    assert!((config.orchestrator.security.trust_threshold - 0.7).abs() < f64::EPSILON);
    assert_eq!(config.default_policy.resource_limits.cpu.millicores(), 1000);
    assert_eq!(
        config.default_policy.resource_limits.memory.bytes(),
        512_000_000
    );
    assert_eq!(
        config.default_policy.resource_limits.disk.bytes(),
        1_000_000_000
    );
    assert_eq!(config.default_policy.lifecycle.quarantine_threshold, 5);
}

#[test]
fn the_two_documents_are_accepted_unchanged_and_are_the_defaults() {
    let (config, origins) = loads(&file(TWO_DOCUMENTS));
    assert_eq!(config, Config::default());
    let from_file = origins
        .iter()
        .filter(|(_, entry)| entry.origin != Origin::Default)
        .count();
    assert_eq!(from_file, 18);
}

#[test]
fn the_annotated_file_names_every_key_with_its_default() {
    let (config, origins) = loads(&file(include_str!("../../meshd.yaml")));
    assert_eq!(config, Config::default());
    for (key, entry) in origins.iter() {
        assert_eq!(
            entry.origin.to_string(),
            "file:meshd.yaml",
            "{key} is not in the annotated file"
        );
    }
}

#[test]
fn flags_win_over_environment_over_file_over_defaults() {
    let mut sources =
        file("listen: 127.0.0.1:1\napi:\n  rate_limit:\n    burst: 1\n    per_second: 1\n");
    sources.env = env(&[
        ("MESH_LISTEN", "127.0.0.1:2"),
        ("MESH_API__RATE_LIMIT__BURST", "2"),
    ])
    .env;
    let sources = sources.with_flag("--listen", "listen", "127.0.0.1:3");
    let (config, origins) = loads(&sources);
    assert_eq!(config.listen, "127.0.0.1:3");
    assert_eq!(
        (
            config.api.rate_limit.burst,
            config.api.rate_limit.per_second
        ),
        (2, 1)
    );
    let origin = |key: &str| origins.get(key).unwrap().origin.to_string();
    assert_eq!(origin("listen"), "flag:--listen");
    assert_eq!(
        origin("api.rate_limit.burst"),
        "env:MESH_API__RATE_LIMIT__BURST"
    );
    assert_eq!(origin("api.rate_limit.per_second"), "file:meshd.yaml");
    assert_eq!(origin("data"), "default");
    assert!(
        origins
            .to_string()
            .contains("listen = \"127.0.0.1:3\"  (flag:--listen)\n")
    );
}

#[test]
fn environment_values_are_read_as_their_key_needs() {
    let (config, _) = loads(&env(&[
        ("MESH_NODE__NAME", "5"),
        ("MESH_SANDBOX__DEGRADABLE", "[cpu, user]"),
        ("MESH_ORCHESTRATOR__RETRY__JITTER", "false"),
        ("MESH_SUPERVISION__STOP_TIMEOUT", "3s"),
        ("MESH_DEFAULT_POLICY__RESOURCE_LIMITS__CPU", "50%"),
        ("MESH_AGENTS", ""),
        ("OTHER", "x"),
    ]));
    assert_eq!(config.node.name.as_deref(), Some("5"));
    assert_eq!(config.sandbox.degradable.len(), 2);
    assert!(!config.orchestrator.retry.jitter);
    assert_eq!(config.supervision.stop_timeout.as_millis(), 3000);
    assert_eq!(config.default_policy.resource_limits.cpu.millicores(), 500);
    assert_eq!(config.agents, None);
}

#[test]
fn what_the_default_policy_limits_and_isolates_is_read_by_each_of_its_names() {
    let (config, _) = loads(&file(
        "default_policy:\n  resource_limits:\n    io: 20MB\n  security:\n    sandbox_level: enhanced\n",
    ));
    let policy = config.default_policy;
    assert_eq!(
        policy
            .resource_limits
            .io
            .map(mesh_messages::units::ByteCount::bytes),
        Some(20_000_000)
    );
    let strict = mesh_messages::manifest::SandboxLevel::Strict;
    assert_eq!(policy.security.sandbox_level, strict);
}

#[test]
fn a_list_of_a_later_source_replaces_the_whole_list_and_null_is_a_value() {
    let mut sources = file("sandbox:\n  degradable: [cpu, pids]\nagents: ./agents\n");
    sources.env = env(&[
        ("MESH_SANDBOX__DEGRADABLE", "[user]"),
        ("MESH_AGENTS", "null"),
    ])
    .env;
    let (config, origins) = loads(&sources);
    assert_eq!(config.sandbox.degradable, [crate::Degradable::User]);
    assert_eq!(config.agents, None);
    assert_eq!(
        origins.get("agents").unwrap().origin.to_string(),
        "env:MESH_AGENTS"
    );
}

#[test]
fn the_clients_variables_are_not_the_daemons() {
    let (config, _) = loads(&env(&[
        ("MESH_URL", "http://x"),
        ("MESH_TOKEN", "t"),
        ("MESH_DATA", "/elsewhere"),
    ]));
    assert_eq!(config, Config::default());
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    let mut sources = file("orchestrater: {}\ndefault_policy:\n  lifecycle:\n    max_crash: 1\n");
    sources.env = env(&[("MESH_LISTN", "x")]).env;
    refused(
        &sources,
        &[
            "default_policy.lifecycle.max_crash: unknown key; did you mean \"max_crashes\"? (file:meshd.yaml)",
            "orchestrater: unknown key; did you mean \"orchestrator\"? (file:meshd.yaml)",
            "listn: unknown key; did you mean \"listen\"? (env:MESH_LISTN)",
        ],
    );
}

#[test]
fn bad_values_name_key_expectation_and_source() {
    let sources = file(
        "supervision:\n  stop_timeout: soon\norchestrator:\n  security:\n    trust_threshold: 7\n",
    );
    let sources = sources.with_flag("--log-format", "telemetry.log_format", "xml");
    refused(
        &sources,
        &[
            "orchestrator.security.trust_threshold: 7 is out of range; expected 0 to 1 (file:meshd.yaml)",
            "supervision.stop_timeout: \"soon\" is not a duration such as 500ms, 5s, 10m, 24h, 7d, or a number of milliseconds (file:meshd.yaml)",
            "telemetry.log_format: \"xml\" is not one of auto, human, json (flag:--log-format)",
        ],
    );
    let sources = file("supervision:\n  backoff_max: 1ms\n  start_timeout: 0\n")
        .with_flag("--listen", "listen", "8080");
    refused(
        &sources,
        &[
            "listen: \"8080\" is not an address and port such as 127.0.0.1:8080 (flag:--listen)",
            "supervision.start_timeout: must be longer than nothing (file:meshd.yaml)",
            "supervision.backoff_max: 1ms is below its base, 200ms (file:meshd.yaml)",
        ],
    );
}

#[test]
fn text_that_is_no_yaml_is_refused_with_its_line() {
    let errors = Config::load(&file("listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n")).unwrap_err();
    assert!(errors.to_string().contains("line 2"), "{errors}");
    assert!(Config::load(&file("- a\n")).is_err());
    assert!(Config::load(&file("cluster:\n  mode: etcd\n")).is_err());
}

#[test]
fn what_is_written_loads_as_the_same() {
    let (config, _) = loads(&file(
        "sandbox:\n  open_network: [a, b]\nnode:\n  name: n\n",
    ));
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(loads(&file(&text)).0, config);
}

#[test]
fn reading_a_named_file_that_is_missing_fails() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("meshd.yaml");
    assert!(matches!(
        Sources::read(Some(&path)),
        Err(crate::ReadError::File { .. })
    ));
    std::fs::write(&path, "listen: 127.0.0.1:0\n").unwrap();
    let sources = Sources::read(Some(&path)).unwrap();
    assert_eq!(
        sources.file,
        Some((path, b"listen: 127.0.0.1:0\n".to_vec()))
    );
}

proptest! {
    #[test]
    fn any_text_is_loaded_or_refused(text in "\\PC{0,60}|(listen|api|data|node|x): ?[a-z0-9{}\\[\\]:.]{0,20}\n{0,2}") {
        drop(Config::load(&file(&text)));
    }

    #[test]
    fn any_variable_is_loaded_or_refused(key in "[A-Z_]{0,20}", value in "\\PC{0,20}") {
        drop(Config::load(&env(&[(&format!("MESH_{key}"), &value)])));
    }

    #[test]
    fn schema_and_loader_agree_on_every_key(index in 0_usize..80, value in prop_oneof![
        Just(json!(null)), Just(json!(true)), Just(json!(-1)), Just(json!(0)), Just(json!(5)), Just(json!(1.5)),
        Just(json!("5s")), Just(json!("64MB")), Just(json!("x")), Just(json!([])), Just(json!(["cpu"])), Just(json!({}))
    ]) {
        let (_, origins) = loads(&Sources::default());
        let keys: Vec<_> = origins.iter().map(|(key, _)| key.to_owned()).collect();
        let key = &keys[index % keys.len()];
        let sources = Sources::default().with_flag("--x", key, value.clone());
        let layer = nest(key, value);
        let conforms = CHECKER.check(&layer).is_empty();
        match Config::load(&sources) {
            Ok((config, _)) => {
                prop_assert!(conforms);
                prop_assert_eq!(loads(&file(&serde_json::to_string(&config).unwrap())).0, config);
            }
            // Refused for how values stand to each other, which a schema cannot say; never because it cannot be read.
            Err(errors) if conforms => {
                prop_assert!(serde_json::from_value::<Config>(layer).is_ok(), "{}", errors);
            }
            Err(_) => {}
        }
    }
}

#[test]
fn several_documents_in_one_file_are_one_configuration() {
    let (one, two) = TWO_DOCUMENTS.split_once("default_policy:").unwrap();
    let two = format!("default_policy:{two}");
    let plain = Config::load(&file(TWO_DOCUMENTS)).unwrap().0;
    for text in [
        format!("---\n{one}{two}"),
        format!("{one}---\n{two}"),
        format!("# what follows is two documents\n--- \n{one}\n--- # the second\n{two}---\n"),
    ] {
        assert_eq!(Config::load(&file(&text)).unwrap().0, plain, "{text}");
    }
}

#[test]
fn what_two_documents_say_of_one_section_is_refused_and_lines_keep_their_numbers() {
    let twice = "api:\n  streams_max: 5\n---\napi:\n  streams_max: 6\n";
    let errors = Config::load(&file(twice)).unwrap_err().to_string();
    assert_eq!(
        errors,
        "api: is in two documents of the file; say it once (file:meshd.yaml)"
    );
    let broken = "listen: 127.0.0.1:1\n---\n\ndata: [\n";
    let errors = Config::load(&file(broken)).unwrap_err().to_string();
    assert!(
        errors.contains("line 4") || errors.contains("line 5"),
        "{errors}"
    );
    let list = "listen: 127.0.0.1:1\n--- [a]\n";
    let errors = Config::load(&file(list)).unwrap_err().to_string();
    assert!(errors.contains("must be a mapping"), "{errors}");
}
