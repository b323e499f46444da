use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn grant(agents: &[&str], domains: &[&str]) -> Grant {
    let list = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Grant {
        agents: list(agents),
        domains: list(domains),
    }
}

fn value(text: &str) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(text.as_bytes().to_vec())
}

fn source(dir: &Path) -> KeySource {
    KeySource::File(dir.join("keys/vault.key"))
}

fn open(dir: &Path) -> Result<Vault, VaultError> {
    Vault::open(&dir.join("secrets/vault"), source(dir))
}

#[test]
fn what_was_set_is_there_after_opening_again_and_unreadable_without_the_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut vault = open(dir.path()).unwrap();
    assert!(
        !dir.path().join("keys").exists(),
        "no key before there is a secret"
    );
    vault
        .set(
            "db-password",
            value("hunter2-hunter2"),
            grant(&["crm"], &[]),
            5,
        )
        .unwrap();
    vault
        .set("db-password", value("second"), grant(&["crm"], &[]), 6)
        .unwrap();
    vault
        .set("gone", value("x"), grant(&["*"], &[]), 7)
        .unwrap();
    vault.delete("gone").unwrap();
    assert!(matches!(vault.delete("gone"), Err(VaultError::Unknown(_))));
    drop(vault);

    let again = open(dir.path()).unwrap();
    let listed = again.list();
    assert_eq!(
        (listed.len(), listed[0].version, listed[0].updated_ms),
        (1, 2, 6)
    );
    assert_eq!(&again.mounted("db-password", "crm").unwrap()[..], b"second");
    let file = dir.path().join("secrets/vault");
    let bytes = std::fs::read(&file).unwrap();
    for text in ["second", "password", "crm"] {
        assert!(
            !bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes()),
            "{text}"
        );
    }
    for path in [&file, &dir.path().join("keys/vault.key")] {
        assert_eq!(
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }
    assert!(!format!("{again:?}").contains("second"));
}

#[test]
fn a_secret_is_given_to_those_named_and_as_it_is_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut vault = open(dir.path()).unwrap();
    vault
        .set("bound", value("v"), grant(&["crm"], &["*.api.test"]), 1)
        .unwrap();
    vault.set("nobody", value("v"), grant(&[], &[]), 1).unwrap();
    let covers = |domain: &str| domain == "*.api.test";
    assert!(vault.brokered("bound", "crm", "a.api.test", covers).is_ok());
    let refused = vault
        .brokered("bound", "crm", "evil.test", |_| false)
        .unwrap_err();
    assert!(matches!(refused, Withheld::Domain { .. }), "{refused}");
    assert_eq!(
        vault.mounted("bound", "crm"),
        Err(Withheld::Brokered("bound".into()))
    );
    assert!(matches!(
        vault.permits("bound", "other"),
        Err(Withheld::Agent { .. })
    ));
    assert!(matches!(
        vault.permits("nobody", "crm"),
        Err(Withheld::Agent { .. })
    ));
    assert!(matches!(
        vault.permits("absent", "crm"),
        Err(Withheld::Unknown(_))
    ));
}

#[test]
fn a_changed_file_or_another_key_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path())
        .unwrap()
        .set("a", value("v"), Grant::default(), 1)
        .unwrap();
    let file = dir.path().join("secrets/vault");
    let good = std::fs::read(&file).unwrap();
    for index in 0..good.len() {
        let mut bytes = good.clone();
        bytes[index] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let opened = open(dir.path());
        assert!(
            matches!(
                opened,
                Err(VaultError::Sealed { .. } | VaultError::Format { .. })
            ),
            "byte {index}"
        );
    }
    for length in 0..good.len() {
        std::fs::write(&file, &good[..length]).unwrap();
        assert!(open(dir.path()).is_err(), "cut to {length}");
    }
    std::fs::write(&file, &good).unwrap();
    assert!(open(dir.path()).is_ok());
    let key = dir.path().join("keys/vault.key");
    std::fs::write(&key, "0".repeat(64)).unwrap();
    assert!(matches!(open(dir.path()), Err(VaultError::Sealed { .. })));
    std::fs::write(&key, "short").unwrap();
    assert!(matches!(
        open(dir.path()),
        Err(VaultError::Key(KeyError::Form { .. }))
    ));
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
    assert!(matches!(
        open(dir.path()),
        Err(VaultError::Key(KeyError::Open { .. }))
    ));
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(open(dir.path()), Err(VaultError::NoKey { .. })));
}

#[test]
fn a_write_that_fails_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut vault = open(dir.path()).unwrap();
    vault.set("a", value("old"), grant(&["*"], &[]), 1).unwrap();
    // What lies aside cannot be replaced: as a full disk, it keeps the write from its end.
    std::fs::create_dir(dir.path().join("secrets/vault.new")).unwrap();
    assert!(vault.set("a", value("new"), grant(&["*"], &[]), 2).is_err());
    assert_eq!(&vault.mounted("a", "x").unwrap()[..], b"old");
    std::fs::remove_dir(dir.path().join("secrets/vault.new")).unwrap();
    assert_eq!(
        &open(dir.path()).unwrap().mounted("a", "x").unwrap()[..],
        b"old"
    );
    vault.set("a", value("new"), grant(&["*"], &[]), 3).unwrap();
}

#[test]
fn a_passphrase_opens_what_it_closed() {
    let dir = tempfile::tempdir().unwrap();
    let phrase = dir.path().join("phrase");
    std::fs::write(&phrase, "correct horse battery\n").unwrap();
    std::fs::set_permissions(&phrase, PermissionsExt::from_mode(0o600)).unwrap();
    let open = || {
        Vault::open(
            &dir.path().join("vault"),
            KeySource::Passphrase(phrase.clone()),
        )
    };
    open()
        .unwrap()
        .set("a", value("v"), grant(&["*"], &[]), 1)
        .unwrap();
    assert_eq!(&open().unwrap().mounted("a", "x").unwrap()[..], b"v");
    std::fs::write(&phrase, "correct horse batterY").unwrap();
    assert!(matches!(open(), Err(VaultError::Sealed { .. })));
    std::fs::write(&phrase, "short").unwrap();
    assert!(matches!(
        open(),
        Err(VaultError::Key(KeyError::Short { .. }))
    ));
}

/// A key of this process's user that goes with the test; `None`, said aloud, where the kernel gives no keyrings.
#[expect(clippy::print_stdout, reason = "a skipped test says so")]
fn in_the_keyring(name: &str, payload: &str) -> Option<linux_keyutils::Key> {
    use linux_keyutils::{KeyRing, KeyRingIdentifier};
    let ring = KeyRing::from_special_id(KeyRingIdentifier::User, true);
    match ring.and_then(|ring| ring.add_key(name, payload)) {
        Ok(key) => Some(key),
        Err(error) => {
            println!("SKIPPED {name}: the kernel gives no keyring: {error:?}");
            None
        }
    }
}

#[test]
fn a_key_of_the_keyring_opens_what_it_closed_and_is_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let name = format!("meshd-test-{}-opens", std::process::id());
    let open = || Vault::open(&dir.path().join("vault"), KeySource::Keyring(name.clone()));
    let mut vault = open().unwrap();
    let missing = vault.set("a", value("v"), grant(&["*"], &[]), 1);
    let Some(key) = in_the_keyring(&name, &"5a".repeat(32)) else {
        return;
    };
    let text = missing.unwrap_err().to_string();
    assert!(text.contains("keyctl padd user"), "{text}");
    vault.set("a", value("v"), grant(&["*"], &[]), 1).unwrap();
    assert_eq!(&open().unwrap().mounted("a", "x").unwrap()[..], b"v");
    let files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(files, ["vault"]);

    key.update(&"5b".repeat(32)).unwrap();
    assert!(matches!(open(), Err(VaultError::Sealed { .. })));
    key.update(&"5a".repeat(31)).unwrap();
    assert!(matches!(
        open(),
        Err(VaultError::Key(KeyError::Form { .. }))
    ));
    key.revoke().unwrap();
    assert!(matches!(
        open(),
        Err(VaultError::Key(KeyError::Keyring { .. }))
    ));
}

#[test]
fn a_key_of_the_keyring_that_others_may_read_is_refused() {
    use linux_keyutils::{KeyPermissionsBuilder, Permission};
    let dir = tempfile::tempdir().unwrap();
    let name = format!("meshd-test-{}-others", std::process::id());
    let Some(key) = in_the_keyring(&name, &"5a".repeat(32)) else {
        return;
    };
    let open_to_all = KeyPermissionsBuilder::builder()
        .posessor(Permission::ALL)
        .user(Permission::ALL)
        .world(Permission::READ)
        .build();
    key.set_perms(open_to_all).unwrap();
    let mut vault = Vault::open(&dir.path().join("vault"), KeySource::Keyring(name)).unwrap();
    let refused = vault.set("a", value("v"), grant(&["*"], &[]), 1);
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("may read it"), "{text}");
    key.revoke().unwrap();
}

#[test]
fn names_and_values_have_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let mut vault = open(dir.path()).unwrap();
    for name in ["", ".a", "/a", "a b", "a\n", "ä", &"a".repeat(129)] {
        assert!(
            matches!(
                vault.set(name, value("v"), Grant::default(), 1),
                Err(VaultError::Name)
            ),
            "{name}"
        );
    }
    for long in [String::new(), "v".repeat(VALUE_BYTES_MAX + 1)] {
        assert!(matches!(
            vault.set("a", value(&long), Grant::default(), 1),
            Err(VaultError::Value)
        ));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Some(secrets) = plain::read(&bytes) {
            prop_assert_eq!(plain::read(&plain::write(&secrets)), Some(secrets));
        }
        let _no_panic = file::Header::read(&bytes);
    }
}

#[test]
fn a_key_of_the_keyring_derives_a_directory_s_key_and_a_missing_one_is_told() {
    let name = format!("meshd-test-{}-storage", std::process::id());
    let source = KeySource::Keyring(name.clone());
    let Some(key) = in_the_keyring(&name, &"5a".repeat(32)) else {
        return;
    };
    let made = StorageKey::make(&source).unwrap();
    let again = StorageKey::existing(&source, made.salt()).unwrap();
    assert_eq!(made.master(), again.master());
    key.update(&"5b".repeat(32)).unwrap();
    let other = StorageKey::existing(&source, made.salt()).unwrap();
    assert_ne!(made.identifier(), other.identifier());
    key.revoke().unwrap();
    let missing = StorageKey::existing(&source, made.salt());
    assert!(matches!(missing, Err(KeyError::Keyring { .. })));
}
