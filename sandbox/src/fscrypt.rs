//! Directories that the kernel encrypts (fscrypt, of ext4 and f2fs): what is in them is readable while the kernel has their
//! key, and neither contents nor names are without it. Whose key it is and when it is taken away is the caller's affair; here
//! are only the kernel's calls, because no safe wrapper offers them.
//!
//! Contents are AES-256 in XTS mode, names AES-256 in CBC mode with stolen ciphertext, padded to 32 bytes: what every kernel
//! with fscrypt has.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use zeroize::Zeroize as _;

use crate::sys::{self, FscryptCall};

/// Bytes of a master key.
pub const MASTER_KEY_BYTES: usize = 64;

/// How a directory is encrypted by [`encrypt`], for people.
pub const MECHANISM: &str = "fscrypt: contents AES-256-XTS, names AES-256-CBC-CTS";

const POLICY_V2: u8 = 2;
const AES_256_XTS: u8 = 1;
const AES_256_CTS: u8 = 4;
const PAD_32: u8 = 3;
/// How keys of policies of version 2 are named: by what is derived from them.
const BY_IDENTIFIER: u32 = 2;

const STATUS_PRESENT: u32 = 2;
const STATUS_REMOVED_IN_PART: u32 = 3;
const REMOVAL_FILES_BUSY: u32 = 1;
const REMOVAL_OTHER_USERS: u32 = 2;

/// Names a master key; derived from it, and no secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyIdentifier(pub [u8; 16]);

impl fmt::Display for KeyIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// How a directory is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// Not at all, though its file system could.
    Plain,
    /// Under this key.
    Encrypted(KeyIdentifier),
    /// In a way that [`encrypt`] never chooses, such as a policy of version 1.
    Other,
}

/// Whether the kernel has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyStatus {
    /// No.
    Absent,
    /// Yes.
    Present,
    /// No, but files that were open when it was taken away are still readable to whoever has them open.
    RemovedInPart,
}

/// What was left when a key was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Files are still open, and readable to whoever has them open.
    pub files_busy: bool,
    /// Another user has added the same key, and the kernel keeps it for them.
    pub other_users: bool,
}

/// Why a directory cannot be encrypted, or its key not be given or taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FscryptError {
    /// The file system, or the kernel, has no fscrypt.
    #[error("the file system does not encrypt")]
    Unsupported,
    /// There is something in the directory.
    #[error("the directory is not empty")]
    NotEmpty,
    /// The root of a file system is never encrypted, and what somebody else owns is not.
    #[error("the kernel refuses to encrypt this directory")]
    Refused,
    /// Anything else.
    #[error("the kernel refuses")]
    Io(#[source] io::Error),
}

impl From<io::Error> for FscryptError {
    fn from(error: io::Error) -> Self {
        match Errno::from_io_error(&error) {
            Some(Errno::NOTTY | Errno::OPNOTSUPP) => Self::Unsupported,
            Some(Errno::NOTEMPTY) => Self::NotEmpty,
            Some(Errno::PERM | Errno::ACCESS) => Self::Refused,
            _ => Self::Io(error),
        }
    }
}

/// The requests of `linux/fscrypt.h`.
pub(crate) mod request {
    pub(crate) const SET_POLICY: u32 = 0x800C_6613;
    pub(crate) const GET_POLICY_EX: u32 = 0xC009_6616;
    pub(crate) const ADD_KEY: u32 = 0xC050_6617;
    pub(crate) const REMOVE_KEY: u32 = 0xC040_6618;
    pub(crate) const REMOVE_KEY_ALL_USERS: u32 = 0xC040_6619;
    pub(crate) const GET_KEY_STATUS: u32 = 0xC080_661A;
}

/// Those that agents may not make.
pub(crate) const WITHHELD: [u64; 4] = [
    request::SET_POLICY as u64,
    request::ADD_KEY as u64,
    request::REMOVE_KEY as u64,
    request::REMOVE_KEY_ALL_USERS as u64,
];

/// `struct fscrypt_policy_v2`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RawPolicy {
    version: u8,
    contents: u8,
    names: u8,
    flags: u8,
    log2_data_unit: u8,
    reserved: [u8; 3],
    identifier: [u8; 16],
}

/// `struct fscrypt_get_policy_ex_arg`.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct GetPolicy {
    size: u64,
    policy: RawPolicy,
}

/// `struct fscrypt_key_specifier`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Specifier {
    kind: u32,
    reserved: u32,
    name: [u8; 32],
}

impl Specifier {
    fn of(key: KeyIdentifier) -> Self {
        let mut name = [0; 32];
        name[..key.0.len()].copy_from_slice(&key.0);
        Self {
            kind: BY_IDENTIFIER,
            reserved: 0,
            name,
        }
    }
}

/// `struct fscrypt_add_key_arg`, with the key behind it. Wiped when dropped.
#[repr(C)]
pub(crate) struct AddKey {
    key: Specifier,
    raw_size: u32,
    key_id: u32,
    reserved: [u32; 8],
    raw: [u8; MASTER_KEY_BYTES],
}

impl fmt::Debug for AddKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddKey")
    }
}

impl Drop for AddKey {
    fn drop(&mut self) {
        self.raw.zeroize();
    }
}

/// `struct fscrypt_remove_key_arg`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct RemoveKey {
    key: Specifier,
    flags: u32,
    reserved: [u32; 5],
}

/// `struct fscrypt_get_key_status_arg`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct GetStatus {
    key: Specifier,
    reserved: [u32; 6],
    status: u32,
    flags: u32,
    users: u32,
    out_reserved: [u32; 13],
}

/// How a directory is encrypted; the key need not be there.
///
/// # Errors
/// [`FscryptError::Unsupported`] and [`FscryptError::Io`].
pub fn policy(dir: BorrowedFd<'_>) -> Result<Policy, FscryptError> {
    let mut asked = GetPolicy {
        size: u64::try_from(size_of::<RawPolicy>()).unwrap_or(0),
        ..GetPolicy::default()
    };
    match sys::fscrypt(dir, FscryptCall::GetPolicy(&mut asked)) {
        Ok(()) if asked.policy.version == POLICY_V2 => {
            Ok(Policy::Encrypted(KeyIdentifier(asked.policy.identifier)))
        }
        Ok(()) => Ok(Policy::Other),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NODATA) => Ok(Policy::Plain),
        Err(error) => Err(error.into()),
    }
}

/// Encrypts an empty directory, and from then on everything that is made in it, under a key that was added.
///
/// # Errors
/// [`FscryptError`]; the directory is as before.
pub fn encrypt(dir: BorrowedFd<'_>, key: KeyIdentifier) -> Result<(), FscryptError> {
    let policy = RawPolicy {
        version: POLICY_V2,
        contents: AES_256_XTS,
        names: AES_256_CTS,
        flags: PAD_32,
        identifier: key.0,
        ..RawPolicy::default()
    };
    Ok(sys::fscrypt(dir, FscryptCall::SetPolicy(&policy))?)
}

/// Gives the kernel a key, for the file system on which `on` lies; what it is called. Once more changes nothing.
///
/// # Errors
/// [`FscryptError`].
pub fn add_key(
    on: BorrowedFd<'_>,
    master: &[u8; MASTER_KEY_BYTES],
) -> Result<KeyIdentifier, FscryptError> {
    let mut asked = AddKey {
        key: Specifier::of(KeyIdentifier([0; 16])),
        raw_size: u32::try_from(MASTER_KEY_BYTES).unwrap_or(0),
        key_id: 0,
        reserved: [0; 8],
        raw: *master,
    };
    sys::fscrypt(on, FscryptCall::AddKey(&mut asked))?;
    let mut name = [0; 16];
    name.copy_from_slice(&asked.key.name[..16]);
    Ok(KeyIdentifier(name))
}

/// Takes a key away from the kernel, and with it what it remembers of files. Of one that is not there, nothing is left.
///
/// # Errors
/// [`FscryptError`].
pub fn remove_key(on: BorrowedFd<'_>, key: KeyIdentifier) -> Result<Removal, FscryptError> {
    let mut asked = RemoveKey {
        key: Specifier::of(key),
        flags: 0,
        reserved: [0; 5],
    };
    match sys::fscrypt(on, FscryptCall::RemoveKey(&mut asked)) {
        Err(error) if Errno::from_io_error(&error) != Some(Errno::NOKEY) => Err(error.into()),
        Ok(()) | Err(_) => Ok(Removal {
            files_busy: asked.flags & REMOVAL_FILES_BUSY != 0,
            other_users: asked.flags & REMOVAL_OTHER_USERS != 0,
        }),
    }
}

/// Whether the kernel has a key, for the file system on which `on` lies.
///
/// # Errors
/// [`FscryptError`].
pub fn key_status(on: BorrowedFd<'_>, key: KeyIdentifier) -> Result<KeyStatus, FscryptError> {
    let mut asked = GetStatus {
        key: Specifier::of(key),
        reserved: [0; 6],
        status: 0,
        flags: 0,
        users: 0,
        out_reserved: [0; 13],
    };
    sys::fscrypt(on, FscryptCall::KeyStatus(&mut asked))?;
    Ok(match asked.status {
        STATUS_PRESENT => KeyStatus::Present,
        STATUS_REMOVED_IN_PART => KeyStatus::RemovedInPart,
        _ => KeyStatus::Absent,
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_the_kernel_takes_has_the_kernel_s_sizes() {
        assert_eq!(size_of::<RawPolicy>(), 24);
        assert_eq!(size_of::<GetPolicy>(), 32);
        assert_eq!(size_of::<AddKey>(), 80 + MASTER_KEY_BYTES);
        assert_eq!(size_of::<RemoveKey>(), 64);
        assert_eq!(size_of::<GetStatus>(), 128);
    }

    #[test]
    fn a_file_system_without_it_says_so() {
        let proc = std::fs::File::open("/proc/self").unwrap();
        let refused = policy(proc.as_fd()).unwrap_err();
        assert!(matches!(refused, FscryptError::Unsupported), "{refused}");
        let refused = add_key(proc.as_fd(), &[1; MASTER_KEY_BYTES]).unwrap_err();
        assert!(matches!(refused, FscryptError::Unsupported), "{refused}");
    }

    #[test]
    fn a_key_is_shown_by_nothing() {
        let asked = AddKey {
            key: Specifier::of(KeyIdentifier([0; 16])),
            raw_size: 64,
            key_id: 0,
            reserved: [0; 8],
            raw: [0x41; MASTER_KEY_BYTES],
        };
        assert_eq!(format!("{asked:?}"), "AddKey");
    }
}
