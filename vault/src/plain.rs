//! What is encrypted: the secrets one after the other, each field with its length before it. Pure.

use zeroize::Zeroizing;

use crate::{GRANTS_MAX, Grant, Kept, SECRETS_MAX, Secrets};

/// Writes all secrets.
pub(crate) fn write(secrets: &Secrets) -> Zeroizing<Vec<u8>> {
    // Measured first: growing would leave copies behind.
    let mut length = 0;
    put_all(secrets, &mut |bytes| length += bytes.len());
    let mut out = Zeroizing::new(Vec::with_capacity(length));
    put_all(secrets, &mut |bytes| out.extend_from_slice(bytes));
    out
}

fn put_all(secrets: &Secrets, put: &mut dyn FnMut(&[u8])) {
    put(&number(secrets.len()));
    for (name, kept) in secrets {
        text(name.as_bytes(), put);
        for list in [&kept.grant.agents, &kept.grant.domains] {
            put(&number(list.len()));
            for entry in list {
                text(entry.as_bytes(), put);
            }
        }
        put(&kept.updated_ms.to_le_bytes());
        put(&kept.version.to_le_bytes());
        text(&kept.value, put);
    }
}

/// Everything counted here is bounded far below 2^32 by the vault.
fn number(value: usize) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

fn text(bytes: &[u8], put: &mut dyn FnMut(&[u8])) {
    put(&number(bytes.len()));
    put(bytes);
}

/// Reads all secrets; nothing when the bytes are something else.
pub(crate) fn read(bytes: &[u8]) -> Option<Secrets> {
    let mut rest = bytes;
    let mut secrets = Secrets::new();
    for _ in 0..count(&mut rest, SECRETS_MAX)? {
        let name = string(&mut rest)?;
        let agents = strings(&mut rest)?;
        let domains = strings(&mut rest)?;
        let updated_ms = u64::from_le_bytes(array(&mut rest)?);
        let version = u32::from_le_bytes(array(&mut rest)?);
        let value = Zeroizing::new(field(&mut rest)?.to_vec());
        let grant = Grant { agents, domains };
        let kept = Kept {
            grant,
            updated_ms,
            version,
            value,
        };
        if secrets.insert(name, kept).is_some() {
            return None;
        }
    }
    rest.is_empty().then_some(secrets)
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn count(rest: &mut &[u8], most: usize) -> Option<usize> {
    let count = usize::try_from(u32::from_le_bytes(array(rest)?)).ok()?;
    (count <= most).then_some(count)
}

fn field<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(u32::from_le_bytes(array(rest)?)).ok()?;
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn string(rest: &mut &[u8]) -> Option<String> {
    String::from_utf8(field(rest)?.to_vec()).ok()
}

fn strings(rest: &mut &[u8]) -> Option<Vec<String>> {
    (0..count(rest, GRANTS_MAX)?)
        .map(|_| string(rest))
        .collect()
}
