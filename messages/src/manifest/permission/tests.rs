use serde_json::{Value, json};

use super::*;
use crate::manifest::{ManifestErrors, ManifestFormat, ParsedManifest, parse_manifest};

fn parse(security: &Value, more: &Value) -> Result<ParsedManifest, ManifestErrors> {
    let mut manifest = json!({
        "id": "a", "version": "1.0.0", "entry": "a.py", "capabilities": ["x"], "security": security,
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        manifest[key] = value.clone();
    }
    parse_manifest(manifest.to_string().as_bytes(), ManifestFormat::Json)
}

fn security(permissions: &Value) -> SecurityConfig {
    let given = json!({
        "permissions": permissions,
        "networkAccess": {"allowOutbound": true},
        "fileAccess": {"allowedPaths": ["/data", "/other"], "readOnly": false, "tempFileAccess": true},
    });
    serde_json::from_value(given).unwrap()
}

fn one(resource: &str, actions: &[&str], scope: Option<&str>) -> Value {
    match scope {
        Some(scope) => json!({"resource": resource, "actions": actions, "scope": scope}),
        None => json!({"resource": resource, "actions": actions}),
    }
}

#[track_caller]
fn check(permissions: &Value, need: (ResourceKind, Action, &str), allowed: bool) {
    let (kind, action, subject) = need;
    let need = Need::new(kind, action, subject);
    let missing = security(permissions).missing([need.clone()]);
    assert_eq!(missing, (!allowed).then_some(need), "{permissions}");
}

#[test]
fn no_list_leaves_everything_and_an_empty_one_nothing() {
    let open: SecurityConfig = serde_json::from_value(json!({})).unwrap();
    let shut = security(&json!([]));
    for kind in ResourceKind::ALL {
        for action in Action::ALL {
            let need = Need::new(kind, action, "x");
            assert_eq!(open.missing([need.clone()]), None);
            assert_eq!(shut.missing([need.clone()]), Some(need));
        }
    }
    assert!(!shut.reaches_out());
    let files = shut.file_grants();
    assert_eq!(
        (files.home, files.temp, files.paths.len()),
        (FileRights::NONE, None, 0)
    );
    assert!(!files.execute());
    let topics = shut.topics_left();
    assert_eq!(
        (topics.publish, topics.subscribe),
        (Some(vec![]), Some(vec![]))
    );
    // An empty list is not the same as none when it is written out again.
    let text = serde_json::to_value(&shut).unwrap();
    assert_eq!(text["permissions"], json!([]));
    assert_eq!(
        serde_json::from_value::<SecurityConfig>(text).unwrap(),
        shut
    );
    assert!(
        serde_json::to_value(&open)
            .unwrap()
            .get("permissions")
            .is_none()
    );
}

#[test]
fn an_absent_action_is_missing_and_a_present_one_is_not() {
    use Action::{Delete, Execute, Read, Write};
    for kind in ResourceKind::ALL {
        for action in kind.actions() {
            let mine = json!([one(kind.name(), &[action.name()], None)]);
            for other in Action::ALL {
                if matches!(
                    kind,
                    ResourceKind::Network | ResourceKind::Topic | ResourceKind::File
                ) {
                    continue;
                }
                check(&mine, (kind, other, "some"), other == *action);
            }
        }
    }
    let reader = json!([one("memory", &["read"], Some("seen/*"))]);
    check(&reader, (ResourceKind::Memory, Read, "seen/1"), true);
    check(&reader, (ResourceKind::Memory, Read, "seen/*"), true);
    check(&reader, (ResourceKind::Memory, Read, "seen"), false);
    check(&reader, (ResourceKind::Memory, Read, "*"), false);
    check(&reader, (ResourceKind::Memory, Write, "seen/1"), false);
    check(&reader, (ResourceKind::Memory, Delete, "seen/1"), false);
    // What has a section is left alone where the list does not name it, and the rest is not.
    check(&reader, (ResourceKind::Secret, Read, "x"), true);
    check(&reader, (ResourceKind::Capability, Execute, "x"), false);
    check(&reader, (ResourceKind::Api, Read, "read"), false);
}

#[test]
fn several_permissions_add_up() {
    use Action::{Read, Write};
    let both = json!([
        one("memory", &["read"], None),
        one("memory", &["write"], Some("a"))
    ]);
    check(&both, (ResourceKind::Memory, Read, "z"), true);
    check(&both, (ResourceKind::Memory, Write, "a"), true);
    check(&both, (ResourceKind::Memory, Write, "ab"), false);
}

#[test]
fn a_name_that_is_no_kind_is_an_agent_or_a_capability() {
    use Action::{Execute, Read, Write};
    let calendar = json!([one("calendar", &["read", "write"], None)]);
    check(&calendar, (ResourceKind::Agent, Write, "calendar"), true);
    check(&calendar, (ResourceKind::Agent, Write, "calendars"), false);
    check(
        &calendar,
        (ResourceKind::Capability, Read, "calendar"),
        true,
    );
    check(
        &calendar,
        (ResourceKind::Capability, Execute, "calendar"),
        false,
    );
    check(&calendar, (ResourceKind::Memory, Write, "calendar"), true);
    check(&calendar, (ResourceKind::Claim, Write, "calendar"), false);
}

#[test]
fn an_address_by_another_way_is_no_agents_id() {
    let some = json!([one("agent", &["write"], Some("k*"))]);
    check(&some, (ResourceKind::Agent, Action::Write, "kit"), true);
    check(
        &some,
        (ResourceKind::Agent, Action::Write, "kPlanner:kit"),
        false,
    );
    let all = json!([one("agent", &["write"], None)]);
    check(
        &all,
        (ResourceKind::Agent, Action::Write, "kPlanner:kit"),
        true,
    );
}

#[test]
fn topics_are_what_both_leave() {
    let topics = |section: Value, permissions: Value| {
        let given = json!({"topics": section, "permissions": permissions});
        let config: SecurityConfig = serde_json::from_value(given).unwrap();
        let left = config.topics_left();
        let texts = |list: Option<Vec<TopicPattern>>| {
            list.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        (texts(left.publish), texts(left.subscribe))
    };
    let some = |texts: &[&str]| Some(texts.iter().map(ToString::to_string).collect());
    let write = |scope| one("topic", &["write"], scope);
    assert_eq!(
        topics(json!({}), json!([write(Some("a.*"))])),
        (some(&["a.*"]), some(&[]))
    );
    assert_eq!(
        topics(
            json!({"publish": ["a.>", "b"]}),
            json!([write(Some("a.x"))])
        ),
        (some(&["a.x"]), some(&[]))
    );
    assert_eq!(
        topics(json!({"publish": ["a.x", "b"]}), json!([write(None)])),
        (some(&["a.x", "b"]), some(&[]))
    );
    // Neither says so much as the other.
    assert_eq!(
        topics(json!({"publish": ["a.*"]}), json!([write(Some("*.x"))])),
        (some(&[]), some(&[]))
    );
    assert_eq!(
        topics(
            json!({"publish": ["a"]}),
            json!([one("memory", &["read"], None)])
        ),
        (some(&["a"]), None)
    );
}

#[test]
fn files_are_what_both_leave() {
    let grants = |permissions: Value| {
        let left = security(&permissions).file_grants();
        let shown = |rights: FileRights| {
            let flag = |on, text| if on { text } else { "" };
            [
                flag(rights.write, "w"),
                flag(rights.execute, "x"),
                flag(rights.delete, "d"),
            ]
            .concat()
        };
        let paths: Vec<_> = left
            .paths
            .iter()
            .map(|grant| format!("{}:{}", grant.path, shown(grant.rights)))
            .collect();
        (shown(left.home), left.temp.map(shown), paths.join(" "))
    };
    let file = |actions: &[&str], scope| one("file", actions, scope);
    let none = String::new;
    let text = |text: &str| text.to_owned();
    assert_eq!(
        grants(json!([one("memory", &["read"], None)])),
        (text("wxd"), Some(text("wxd")), text("/data:wxd /other:wxd"))
    );
    assert_eq!(
        grants(json!([file(&["read"], None)])),
        (none(), None, text("/data: /other:"))
    );
    assert_eq!(
        grants(json!([file(&["read", "write"], None)])),
        (text("w"), Some(text("w")), text("/data:w /other:w"))
    );
    assert_eq!(
        grants(json!([
            file(&["read", "write"], Some("/data/in")),
            file(&["write"], Some("home"))
        ])),
        (text("w"), None, text("/data/in:w"))
    );
    // A scope above a path is that path, and one elsewhere is nothing.
    assert_eq!(
        grants(json!([
            file(&["read"], Some("/")),
            file(&["read", "write"], Some("/etc"))
        ])),
        (none(), None, text("/data: /other:"))
    );
    // `/data` is no parent of `/database`.
    assert_eq!(
        grants(json!([file(&["read"], Some("/database"))])),
        (none(), None, none())
    );
    // What holds for a directory holds below it.
    assert_eq!(
        grants(json!([
            file(&["read", "delete"], Some("/data")),
            file(&["read", "write"], Some("/data/a")),
        ])),
        (none(), None, text("/data:d /data/a:wd"))
    );
    // Read-only paths stay so.
    let given = json!({
        "permissions": [file(&["read", "write", "delete", "execute"], None)],
        "fileAccess": {"allowedPaths": ["/data"]},
    });
    let config: SecurityConfig = serde_json::from_value(given).unwrap();
    let left = config.file_grants();
    assert!(!left.paths[0].rights.changes() && left.temp.is_none());
}

#[test]
fn the_way_out_is_there_while_something_of_it_is_left() {
    assert!(security(&json!([one("memory", &["read"], None)])).reaches_out());
    assert!(security(&json!([one("network", &["read"], Some("a.example"))])).reaches_out());
    assert!(!security(&json!([])).reaches_out());
    let shut = json!({"permissions": [one("network", &["read"], None)]});
    let config: SecurityConfig = serde_json::from_value(shut).unwrap();
    assert!(!config.reaches_out(), "a permission opens nothing");
}

#[test]
fn what_is_enforced_nowhere_is_refused_by_name() {
    let refused = |permission: Value, field: &str, says: &str| {
        let error = parse(&json!({"permissions": [permission]}), &json!({})).unwrap_err();
        let text = error.to_string();
        let at = format!("security.permissions[0].{field}");
        assert!(text.contains(&at) && text.contains(says), "{text}");
    };
    refused(
        one("memory", &["read", "execute"], None),
        "actions",
        "read, write, delete",
    );
    refused(one("secret", &["write"], None), "actions", "read, execute");
    refused(
        one("capability", &["delete"], None),
        "actions",
        "read, execute",
    );
    refused(one("topic", &["execute"], None), "actions", "read, write");
    refused(one("agent", &["execute"], None), "actions", "read, write");
    refused(one("claim", &["read"], None), "actions", "write");
    refused(
        one("flie", &["read"], None),
        "resource",
        "did you mean \"file\"?",
    );
    refused(
        one("Memory", &["read"], None),
        "resource",
        "did you mean \"memory\"?",
    );
    refused(one("calendar", &["delete"], None), "actions", "delete");
    refused(one("calendar", &["read"], Some("x")), "scope", "as a whole");
    refused(
        one("file", &["write"], Some("/data")),
        "actions",
        "add read",
    );
    refused(one("file", &["read"], Some("data")), "scope", "absolute");
    refused(one("file", &["read"], Some("/a/../b")), "scope", "absolute");
    refused(one("network", &["read"], Some("a*b")), "scope", "domain");
    refused(one("topic", &["read"], Some("a..b")), "scope", "topic");
    refused(
        one("api", &["read"], Some("task.sumbit")),
        "scope",
        "task.submit",
    );
    refused(one("memory", &["read"], Some("a*b")), "scope", "end");
    refused(json!({"resource": "memory", "actions": []}), "actions", "");
}

#[test]
fn a_secret_that_it_could_not_have_is_refused() {
    let secrets = json!({"secrets": [
        {"name": "db", "from": "vault://db", "mode": "mount"},
        {"name": "api", "from": "vault://api", "domains": ["a.example"]},
    ]});
    let with = |permissions: Value| {
        let given = json!({"permissions": permissions, "networkAccess": {"allowOutbound": true}});
        parse(&given, &secrets).map_err(|errors| errors.to_string())
    };
    assert!(with(json!([one("memory", &["read"], None)])).is_ok());
    let text = with(json!([one("secret", &["read"], Some("db"))])).unwrap_err();
    assert!(
        text.contains("secrets[1]: permission secret:execute (api)"),
        "{text}"
    );
    let text = with(json!([])).unwrap_err();
    assert!(
        text.contains("secrets[0]: permission secret:read (db)"),
        "{text}"
    );
    let both = json!([
        one("secret", &["read"], Some("db")),
        one("secret", &["execute"], None)
    ]);
    assert!(with(both).is_ok());
}

#[test]
fn sections_of_which_nothing_is_left_are_told() {
    let given = json!({
        "permissions": [one("file", &["read"], Some("/data")), one("calendar", &["read"], None)],
        "networkAccess": {"allowOutbound": true},
        "fileAccess": {"allowedPaths": ["/data", "/other"]},
    });
    let parsed = parse(&given, &json!({})).unwrap();
    let mut told: Vec<_> = parsed
        .notices
        .iter()
        .map(|notice| notice.path.as_str())
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "security.fileAccess.allowedPaths[1]",
            "security.permissions[1].resource"
        ]
    );
}

#[test]
fn what_is_missing_is_named_in_one_line() {
    let need = |subject: &str| Need::new(ResourceKind::Memory, Action::Write, subject).to_string();
    assert_eq!(need("a/b"), "permission memory:write (a/b)");
    assert_eq!(need(""), "permission memory:write");
    assert_eq!(need("a\nb"), "permission memory:write (a\u{fffd}b)");
    assert!(need(&"x".repeat(4000)).len() < 200);
    assert!(need(&"x".repeat(4000)).ends_with("…)"));
    assert!(!need(&"x".repeat(SHOWN_CHARS_MAX)).contains('…'));
}
