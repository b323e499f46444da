//! Keys that the kernel holds (keyrings(7)): on no disk, and gone when the machine stops.

use linux_keyutils as keyutils;
use linux_keyutils::{Key, KeyRing, KeyRingIdentifier};
use zeroize::Zeroizing;

use crate::key::KeyError;

/// Longest payload that is read; 64 digits and white space are expected.
const PAYLOAD_BYTES_MAX: usize = 256;

/// What others may not do with it: read it, by group or by the world (`keyctl_setperm(3)`).
const READ_BY_OTHERS: u32 = 0x0000_0202;

/// The payload of the key of type `user` with this description: of this session's keyring, or of this user's.
pub(crate) fn read(name: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let refused = |detail: String| KeyError::Keyring {
        name: name.to_owned(),
        detail,
    };
    let key = find(name).map_err(|error| refused(explain(error, name)))?;
    let failed = |error| refused(explain(error, name));
    let about = key.metadata().map_err(failed)?;
    let own = about.get_uid() == rustix::process::geteuid().as_raw() || about.get_uid() == 0;
    if !own || about.get_perms().bits() & READ_BY_OTHERS != 0 {
        return Err(refused(
            "others own it or may read it; take that from them (`keyctl setperm`)".to_owned(),
        ));
    }
    let mut payload = Zeroizing::new(vec![0; PAYLOAD_BYTES_MAX]);
    let length = key.read(&mut *payload).map_err(failed)?;
    if length > PAYLOAD_BYTES_MAX {
        return Err(refused(format!("it has {length} bytes, not 64 digits")));
    }
    payload.truncate(length);
    Ok(payload)
}

fn find(name: &str) -> Result<Key, keyutils::KeyError> {
    let session = KeyRing::from_special_id(KeyRingIdentifier::Session, false)
        .and_then(|ring| ring.search(name));
    if let Ok(key) = session {
        return Ok(key);
    }
    // A service has no session whose keyring leads to its user's. What a process links into its own, it possesses, and may
    // therefore read.
    let process = KeyRing::from_special_id(KeyRingIdentifier::Process, true)?;
    process.link_keyring_id(KeyRingIdentifier::User)?;
    process.search(name)
}

fn explain(error: keyutils::KeyError, name: &str) -> String {
    use keyutils::KeyError as E;
    match error {
        E::KeyDoesNotExist | E::KeyringDoesNotExist => format!(
            "there is none of this name; put 64 hexadecimal digits there as meshd's user \
             (`keyctl padd user {name} @u`), and keep them elsewhere, too: the kernel forgets them when the machine stops"
        ),
        E::KeyExpired | E::KeyRevoked => "it has expired or was revoked".to_owned(),
        E::AccessDenied | E::PermissionDenied => {
            "this process may not read it; meshd's user has to own it".to_owned()
        }
        other => format!("the kernel says {other:?}"),
    }
}
