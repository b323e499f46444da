//! The book, by hand and at random.

use proptest::prelude::*;

use super::*;

fn at(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn id(text: &str) -> ServiceId {
    ServiceId::new(text).unwrap()
}

fn definition(name: &str, more: &str) -> Box<ServiceDefinition> {
    let text = format!(
        r#"{{"id":"{name}","name":"{name}","type":"utility","endpoints":[{{"name":"a","url":"https://{name}"}}]{more}}}"#
    );
    serde_json::from_str(&text).unwrap()
}

fn register(name: &str, more: &str) -> ServiceCommand {
    let definition = definition(name, more);
    ServiceCommand::Register {
        definition,
        by: "ada".to_owned(),
    }
}

fn replace(name: &str, more: &str) -> ServiceCommand {
    let definition = definition(name, more);
    ServiceCommand::Replace {
        definition,
        by: "bob".to_owned(),
    }
}

fn remove(name: &str) -> ServiceCommand {
    ServiceCommand::Remove {
        service: id(name),
        by: "ada".to_owned(),
    }
}

fn checked(name: &str, version: u32, found: Result<(), &str>) -> ServiceCommand {
    ServiceCommand::Checked {
        service: id(name),
        version,
        found: found.map_err(str::to_owned),
    }
}

fn load(names: &[&str]) -> ServiceCommand {
    let definitions = names.iter().map(|name| *definition(name, "")).collect();
    ServiceCommand::Load { definitions }
}

/// Decides and applies; the kinds of the events.
fn take(
    book: &mut ServiceBook,
    command: ServiceCommand,
) -> Result<Vec<&'static str>, ServiceRefusal> {
    let events = book.decide(command, at(1))?;
    for event in &events {
        book.apply(event);
    }
    Ok(events.iter().map(RegistryEvent::kind).collect())
}

#[test]
fn a_service_is_registered_replaced_and_removed_and_the_same_again_changes_nothing() {
    let mut book = ServiceBook::default();
    assert_eq!(
        take(&mut book, register("geo", "")),
        Ok(vec!["service.registered"])
    );
    assert_eq!(take(&mut book, register("geo", "")), Ok(vec![]));
    let other = r#","capabilities":["x"]"#;
    assert_eq!(
        take(&mut book, register("geo", other)),
        Err(ServiceRefusal::Exists(id("geo")))
    );
    assert_eq!(
        take(&mut book, replace("geo", other)),
        Ok(vec!["service.updated"])
    );
    assert_eq!(take(&mut book, replace("geo", other)), Ok(vec![]));
    let kept = book.get("geo").unwrap();
    assert_eq!((kept.version, kept.by.as_str()), (2, "bob"));
    assert_eq!(
        take(&mut book, replace("nope", "")),
        Err(ServiceRefusal::NotFound(id("nope")))
    );
    assert_eq!(take(&mut book, remove("geo")), Ok(vec!["service.removed"]));
    assert_eq!(
        take(&mut book, remove("geo")),
        Err(ServiceRefusal::NotFound(id("geo")))
    );
    assert_eq!(book, ServiceBook::default());
}

#[test]
fn a_change_of_health_is_said_once_and_only_of_the_definition_that_was_checked() {
    let mut book = ServiceBook::default();
    take(&mut book, register("geo", "")).unwrap();
    assert!(book.get("geo").unwrap().unchecked);
    assert_eq!(
        take(&mut book, checked("geo", 1, Ok(()))),
        Ok(vec!["service.recovered"]),
        "the first one is news"
    );
    assert!(!book.get("geo").unwrap().unchecked);
    assert_eq!(take(&mut book, checked("geo", 1, Ok(()))), Ok(vec![]));
    assert_eq!(
        take(&mut book, checked("geo", 1, Err("no"))),
        Ok(vec!["service.unhealthy"])
    );
    assert_eq!(
        take(&mut book, checked("geo", 1, Err("still no"))),
        Ok(vec![])
    );
    assert_eq!(book.get("geo").unwrap().status(), ServiceStatus::Error);
    take(&mut book, replace("geo", r#","capabilities":["x"]"#)).unwrap();
    assert!(
        book.get("geo").unwrap().fault.is_some(),
        "until it is checked"
    );
    let version = book.get("geo").unwrap().version;
    assert_eq!(
        take(&mut book, checked("geo", version + 1, Ok(()))),
        Ok(vec![]),
        "of another version"
    );
    assert_eq!(
        take(&mut book, checked("geo", version, Ok(()))),
        Ok(vec!["service.recovered"])
    );
    assert_eq!(book.get("geo").unwrap().status(), ServiceStatus::Active);
    assert_eq!(take(&mut book, checked("gone", 1, Err("no"))), Ok(vec![]));
}

#[test]
fn what_the_author_says_of_errors_does_not_count_and_inactive_does() {
    let mut book = ServiceBook::default();
    take(&mut book, register("a", r#","status":"error""#)).unwrap();
    assert_eq!(book.get("a").unwrap().status(), ServiceStatus::Active);
    assert_eq!(take(&mut book, register("a", "")), Ok(vec![]));
    take(&mut book, register("b", r#","status":"inactive""#)).unwrap();
    take(&mut book, checked("b", 1, Err("no"))).unwrap();
    assert_eq!(book.get("b").unwrap().status(), ServiceStatus::Inactive);
}

#[test]
fn the_configuration_decides_for_its_names_and_leaves_the_others() {
    let mut book = ServiceBook::default();
    take(&mut book, register("own", "")).unwrap();
    take(&mut book, register("both", "")).unwrap();
    let loaded = take(&mut book, load(&["both", "new"]));
    assert_eq!(loaded, Ok(vec!["service.updated", "service.registered"]));
    assert_eq!(take(&mut book, load(&["both", "new"])), Ok(vec![]));
    for command in [remove("new"), replace("new", r#","capabilities":["x"]"#)] {
        assert_eq!(
            take(&mut book, command),
            Err(ServiceRefusal::Configured(id("new")))
        );
    }
    assert_eq!(take(&mut book, load(&["new"])), Ok(vec!["service.removed"]));
    assert_eq!(take(&mut book, load(&[])), Ok(vec!["service.removed"]));
    let left: Vec<_> = book.all().map(|(id, _)| id.as_str()).collect();
    assert_eq!(left, ["own"]);
}

#[test]
fn there_are_never_too_many() {
    let mut book = ServiceBook::default();
    for number in 0..SERVICES_MAX {
        take(&mut book, register(&format!("s{number}"), "")).unwrap();
    }
    assert_eq!(
        take(&mut book, register("more", "")),
        Err(ServiceRefusal::Full)
    );
    assert_eq!(take(&mut book, load(&["more"])), Err(ServiceRefusal::Full));
    assert_eq!(take(&mut book, load(&["s0"])), Ok(vec!["service.updated"]));
}

proptest! {
    /// A state that was stored and read again is the same one, changes of health alternate, and versions only rise.
    #[test]
    fn random_histories_hold_together(steps in prop::collection::vec((0_u8..6, 0_u8..3, any::<bool>()), 0..120)) {
        let mut book = ServiceBook::default();
        for (what, which, flag) in steps {
            let name = ["a", "b", "c"][usize::from(which)];
            let before = book.get(name).cloned();
            let more = if flag { r#","capabilities":["x"]"# } else { "" };
            let version = before.as_ref().map_or(1, |kept| kept.version);
            let command = match what {
                0 => register(name, more),
                1 => replace(name, more),
                2 => remove(name),
                3 => load(if flag { &["a", "b"] } else { &["c"] }),
                _ => checked(name, version, if flag { Ok(()) } else { Err("no") }),
            };
            let told = take(&mut book, command).unwrap_or_default();
            if told.contains(&"service.unhealthy") {
                prop_assert!(before.as_ref().is_some_and(|kept| kept.fault.is_none()));
            }
            if told.contains(&"service.recovered") {
                prop_assert!(before.as_ref().is_some_and(|kept| kept.fault.is_some() || kept.unchecked));
            }
            if let (Some(before), Some(after)) = (&before, book.get(name)) {
                prop_assert!(after.version >= before.version);
            }
            let stored = serde_json::to_string(&book).unwrap();
            prop_assert_eq!(&serde_json::from_str::<ServiceBook>(&stored).unwrap(), &book);
        }
    }
}
