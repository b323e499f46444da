//! Whose key is whose, and what this node has co-signed: folds over [`SentinelEvent`]s.
//!
//! An owner has one key at a time: registering another one rotates it. A key that was revoked or replaced never comes
//! back, for whoever has the old secret must not speak again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use mesh_messages::Timestamp;
use mesh_messages::address::Address;
use mesh_messages::events::{LogSuccession, SentinelEvent};
use mesh_messages::identity::DidKey;
use mesh_messages::system::KeyInfo;

/// Keys that are known, those of the past included. A fleet has some hundreds; ten thousand is a script gone wild.
pub const KEYS_MAX: usize = 10_000;

/// Other logs whose checkpoints are co-signed. Each is an operator's decision: its key has been registered.
pub const WITNESSED_MAX: usize = 1_000;

/// Longest reason of a revocation.
pub const REASON_MAX: usize = 256;

/// Why a key is not registered or revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// Nobody can own a key under this address.
    #[error(
        "owner: {0} is a topic, a policy or a single replica; name an agent, a user, a node or a role:name"
    )]
    Owner(Address),
    /// It is somebody's, or was.
    #[error("{key} is or was the key of {owner}; make a new one, a key is used once")]
    Used {
        /// The key.
        key: String,
        /// Whose.
        owner: String,
    },
    /// Too many.
    #[error("{KEYS_MAX} keys are known, and none is forgotten; this node can take no more")]
    TooMany,
    /// There is no such key.
    #[error("key {0} is not known")]
    Unknown(String),
    /// The reason is too long.
    #[error("reason: at most {REASON_MAX} characters, none of them a control character")]
    Reason,
}

/// Why a checkpoint is not co-signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WitnessRefusal {
    /// The proof begins at another size than the last one that was co-signed.
    #[error("the last checkpoint that was co-signed covers {last} records; prove from there")]
    Conflict {
        /// What size that has.
        last: u64,
    },
    /// Too many logs.
    #[error("this node co-signs {WITNESSED_MAX} logs already")]
    TooMany,
    /// A key took over that cannot: it is not the next one, or hands over from a key that is not in force.
    #[error("it does not follow from what is known of the log's key here: {0}")]
    NotNext(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    owner: String,
    registered: Timestamp,
    revoked: Option<Timestamp>,
    reason: Option<String>,
}

/// The last checkpoint of another log that was co-signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witnessed {
    /// How many records it covers.
    pub size: u64,
    /// Their root, hex.
    pub root: String,
}

/// A key that took over a log, and the last tree that the one before it speaks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Successor {
    key: DidKey,
    size: u64,
}

/// Every key that was ever registered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRing {
    keys: BTreeMap<String, Entry>,
    // Invariant: exactly the keys that hold, by owner.
    current: BTreeMap<String, DidKey>,
    witnessed: BTreeMap<String, Witnessed>,
    // The keys that took over from a log's first one, by its name.
    #[serde(default)]
    successors: BTreeMap<String, Vec<Successor>>,
    // How many successions of this node's own key are on record.
    #[serde(default)]
    rotations: u64,
}

/// Who owns what is signed in the name of an address: one spelling for each.
pub fn owner_of(address: &Address) -> Option<String> {
    match address {
        Address::Agent { node: None, id } => Some(format!("agent:{id}")),
        Address::Role { role, name } if &**role == "agent" => {
            let agent = name.split_once('#').map_or(&**name, |(agent, _)| agent);
            Some(format!("agent:{agent}"))
        }
        Address::Kai(path) => Some(
            path.strip_prefix("user.")
                .map_or_else(|| format!("kai://{path}"), |name| format!("user:{name}")),
        ),
        Address::Role { .. } | Address::Node(_) | Address::Agent { node: Some(_), .. } => {
            Some(address.to_string())
        }
        Address::Topic(_) | Address::Policy(_) => None,
    }
}

impl KeyRing {
    /// The key of an owner; see [`owner_of`].
    pub fn key_of(&self, owner: &str) -> Option<DidKey> {
        self.current.get(owner).copied()
    }

    /// Whose a key is, if it holds.
    pub fn owner(&self, key: &DidKey) -> Option<&str> {
        let entry = self.keys.get(&key.to_string())?;
        entry.revoked.is_none().then_some(entry.owner.as_str())
    }

    /// All keys that hold, by owner.
    pub fn current(&self) -> impl Iterator<Item = (&str, DidKey)> {
        self.current
            .iter()
            .map(|(owner, key)| (owner.as_str(), *key))
    }

    /// All of them as they are shown.
    pub fn list(&self) -> Vec<KeyInfo> {
        let shown = |(key, entry): (&String, &Entry)| {
            Some(KeyInfo {
                key: key.parse().ok()?,
                owner: entry.owner.clone(),
                registered: entry.registered,
                revoked: entry.revoked,
                reason: entry.reason.clone(),
            })
        };
        self.keys.iter().filter_map(shown).collect()
    }

    /// One of them as it is shown.
    pub fn info(&self, key: &DidKey) -> Option<KeyInfo> {
        let entry = self.keys.get(&key.to_string())?;
        Some(KeyInfo {
            key: *key,
            owner: entry.owner.clone(),
            registered: entry.registered,
            revoked: entry.revoked,
            reason: entry.reason.clone(),
        })
    }

    /// Decides on a new key of an owner; `None` when it is theirs already.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    pub fn register(
        &self,
        key: DidKey,
        owner: &Address,
    ) -> Result<Option<SentinelEvent>, KeyRefusal> {
        let owner = owner_of(owner).ok_or_else(|| KeyRefusal::Owner(owner.clone()))?;
        let replaces = self.key_of(&owner);
        if replaces == Some(key) {
            return Ok(None);
        }
        if let Some(entry) = self.keys.get(&key.to_string()) {
            let (key, owner) = (key.to_string(), entry.owner.clone());
            return Err(KeyRefusal::Used { key, owner });
        }
        if self.keys.len() >= KEYS_MAX {
            return Err(KeyRefusal::TooMany);
        }
        Ok(Some(SentinelEvent::KeyRegistered {
            key: Box::new(key),
            owner,
            replaces: replaces.map(Box::new),
        }))
    }

    /// Decides on a revocation; `None` when it does not hold any more.
    ///
    /// # Errors
    /// [`KeyRefusal`].
    pub fn revoke(&self, key: DidKey, reason: &str) -> Result<Option<SentinelEvent>, KeyRefusal> {
        let entry = self.keys.get(&key.to_string());
        let entry = entry.ok_or_else(|| KeyRefusal::Unknown(key.to_string()))?;
        if reason.chars().count() > REASON_MAX || reason.chars().any(char::is_control) {
            return Err(KeyRefusal::Reason);
        }
        let reason = reason.to_owned();
        Ok(entry.revoked.is_none().then(|| SentinelEvent::KeyRevoked {
            key: Box::new(key),
            reason,
        }))
    }

    /// How many successions of this node's own key are on record.
    pub fn rotations(&self) -> u64 {
        self.rotations
    }

    /// Logs whose first key does not sign any more, with the one that does.
    pub fn succeeded_logs(&self) -> impl Iterator<Item = (&str, DidKey)> {
        let current = |(log, keys): (_, &Vec<Successor>)| Some((log, keys.last()?.key));
        self.successors
            .iter()
            .filter_map(move |(log, keys)| current((log.as_str(), keys)))
    }

    /// The key that signs for a log, if it holds: the log's name where no other took over.
    pub fn log_key(&self, origin: &DidKey) -> Option<DidKey> {
        let successors = self.successors.get(&origin.to_string());
        let last = successors.and_then(|keys| keys.last());
        let key = last.map_or(*origin, |last| last.key);
        self.owner(&key).map(|_| key)
    }

    /// Decides on another key that signs for a log from a tree on whose proof begins at size `old` and has been checked
    /// against what [`witnessed`](Self::witnessed) says, as have its signatures; `None` when it is known.
    ///
    /// # Errors
    /// [`WitnessRefusal`].
    pub fn succeed(
        &self,
        old: u64,
        new: LogSuccession,
    ) -> Result<Option<SentinelEvent>, WitnessRefusal> {
        let refused = |why: String| Err(WitnessRefusal::NotNext(why));
        if let Some(known) = self.known_successor(&new) {
            return known.map(|()| None);
        }
        if self.log_key(&new.origin) != Some(new.old) {
            return refused(format!("{} is not the key in force", new.old));
        }
        if self.keys.contains_key(&new.new.to_string()) || new.new == new.origin {
            return refused(format!("{} is or was somebody's key", new.new));
        }
        let origin = new.origin.to_string();
        let before = self.successors.get(&origin).and_then(|keys| keys.last());
        if new.size <= before.map_or(0, |before| before.size) {
            return refused(format!(
                "trees of up to {} records were another key's",
                new.size
            ));
        }
        let last = self.witnessed.get(&origin);
        let size = last.map_or(0, |last| last.size);
        if size != old || new.size < old {
            return Err(WitnessRefusal::Conflict { last: size });
        }
        let full = last.is_none() && self.witnessed.len() >= WITNESSED_MAX;
        if full || self.keys.len() >= KEYS_MAX {
            return Err(WitnessRefusal::TooMany);
        }
        Ok(Some(SentinelEvent::SuccessionWitnessed(Box::new(new))))
    }

    /// Whether a succession is known already, or cannot be the next one; `None` when it could.
    pub fn known_successor(&self, new: &LogSuccession) -> Option<Result<(), WitnessRefusal>> {
        let successors = self.successors.get(&new.origin.to_string());
        let successors = successors.map_or(&[][..], Vec::as_slice);
        let next = successors.len() as u64 + 1;
        if new.number == next {
            return None;
        }
        let index = usize::try_from(new.number).unwrap_or(usize::MAX);
        let known = index.checked_sub(1).and_then(|n| successors.get(n));
        Some(match known {
            Some(known) if known.key == new.new => Ok(()),
            Some(known) => Err(WitnessRefusal::NotNext(format!(
                "as number {} {} took over",
                new.number, known.key
            ))),
            None => Err(WitnessRefusal::NotNext(format!(
                "it is number {}, and number {next} follows",
                new.number
            ))),
        })
    }

    /// The last checkpoint of a log that was co-signed.
    pub fn witnessed(&self, origin: &str) -> Option<&Witnessed> {
        self.witnessed.get(origin)
    }

    /// Decides on co-signing a checkpoint whose proof begins at size `old` and has been checked against what
    /// [`witnessed`](Self::witnessed) says; `None` when the very same was co-signed before.
    ///
    /// # Errors
    /// [`WitnessRefusal`].
    pub fn witness(
        &self,
        origin: &str,
        old: u64,
        new: &Witnessed,
    ) -> Result<Option<SentinelEvent>, WitnessRefusal> {
        let last = self.witnessed.get(origin);
        let size = last.map_or(0, |last| last.size);
        if size != old || new.size < old {
            return Err(WitnessRefusal::Conflict { last: size });
        }
        if let Some(last) = last
            && last.size == new.size
        {
            return if last == new {
                Ok(None)
            } else {
                Err(WitnessRefusal::Conflict { last: size })
            };
        }
        if last.is_none() && self.witnessed.len() >= WITNESSED_MAX {
            return Err(WitnessRefusal::TooMany);
        }
        Ok(Some(SentinelEvent::CheckpointWitnessed {
            origin: origin.to_owned(),
            size: new.size,
            root: new.root.clone(),
        }))
    }

    /// Takes an event in.
    pub fn apply(&mut self, at: Timestamp, event: &SentinelEvent) {
        match event {
            SentinelEvent::KeyRegistered {
                key,
                owner,
                replaces,
            } => {
                if let Some(old) = replaces {
                    self.end(old, at, "replaced");
                }
                let entry = Entry {
                    owner: owner.clone(),
                    registered: at,
                    revoked: None,
                    reason: None,
                };
                self.keys.insert(key.to_string(), entry);
                self.current.insert(owner.clone(), **key);
            }
            SentinelEvent::KeyRevoked { key, reason } => self.end(key, at, reason),
            SentinelEvent::CheckpointWitnessed { origin, size, root } => {
                let (size, root) = (*size, root.clone());
                self.witnessed
                    .insert(origin.clone(), Witnessed { size, root });
            }
            SentinelEvent::KeyRotated { .. } => self.rotations += 1,
            SentinelEvent::SuccessionWitnessed(new) => self.take_over(at, new),
            SentinelEvent::TokenIssued { .. }
            | SentinelEvent::TokenRevoked { .. }
            | SentinelEvent::Allowed { .. }
            | SentinelEvent::Denied { .. }
            | SentinelEvent::Refused { .. }
            | SentinelEvent::CallAnnounced(_)
            | SentinelEvent::CallEnded(_)
            | SentinelEvent::Counted(_)
            | SentinelEvent::Granted(_)
            | SentinelEvent::SessionRevoked { .. }
            | SentinelEvent::EgressDenied(_)
            | SentinelEvent::ChaosStruck { .. } => {}
        }
    }

    fn take_over(&mut self, at: Timestamp, new: &LogSuccession) {
        if let Some(owner) = self.owner(&new.old).map(str::to_owned) {
            let reason = if new.compromised {
                "compromised"
            } else {
                "succeeded"
            };
            self.end(&new.old, at, reason);
            let entry = Entry {
                owner: owner.clone(),
                registered: at,
                revoked: None,
                reason: None,
            };
            self.keys.insert(new.new.to_string(), entry);
            self.current.insert(owner, new.new);
        }
        let origin = new.origin.to_string();
        let (size, root) = (new.size, new.root.clone());
        self.witnessed
            .insert(origin.clone(), Witnessed { size, root });
        let (key, size) = (new.new, new.size);
        let successors = self.successors.entry(origin).or_default();
        successors.push(Successor { key, size });
    }

    fn end(&mut self, key: &DidKey, at: Timestamp, reason: &str) {
        if let Some(entry) = self.keys.get_mut(&key.to_string())
            && entry.revoked.is_none()
        {
            entry.revoked = Some(at);
            entry.reason = Some(reason.to_owned());
            self.current.remove(&entry.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_messages::identity::SigningKey;

    use super::*;

    fn key(n: u8) -> DidKey {
        SigningKey::from_secret(&[n; 32]).public()
    }

    fn at(n: u64) -> Timestamp {
        Timestamp::from_millis(n)
    }

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn an_owner_has_one_key_and_an_old_one_never_comes_back() {
        let mut ring = KeyRing::default();
        let ada = address("user:ada");
        for n in [1, 2] {
            let event = ring.register(key(n), &ada).unwrap().unwrap();
            ring.apply(at(u64::from(n)), &event);
            assert_eq!(ring.key_of("user:ada"), Some(key(n)));
        }
        assert_eq!(ring.owner(&key(1)), None);
        assert_eq!(ring.register(key(2), &ada), Ok(None));
        for owner in ["user:ada", "user:eve"] {
            let refused = ring.register(key(1), &address(owner));
            assert!(
                matches!(refused, Err(KeyRefusal::Used { .. })),
                "{refused:?}"
            );
        }
        let event = ring.revoke(key(2), "lost").unwrap().unwrap();
        ring.apply(at(3), &event);
        assert_eq!(ring.key_of("user:ada"), None);
        assert_eq!(ring.revoke(key(2), "again"), Ok(None));
        assert_eq!(
            ring.revoke(key(3), ""),
            Err(KeyRefusal::Unknown(key(3).to_string()))
        );
        let listed = ring.list();
        let reason = |key| {
            let found = listed.iter().find(|info| info.key == key).unwrap();
            found.reason.clone()
        };
        assert_eq!(reason(key(1)).as_deref(), Some("replaced"));
        assert_eq!(reason(key(2)).as_deref(), Some("lost"));
    }

    #[test]
    fn every_spelling_of_an_owner_is_the_same_owner() {
        for (text, owner) in [
            ("agent:echo", Some("agent:echo")),
            ("agent:echo#2", Some("agent:echo")),
            ("kai://agent.echo", Some("agent:echo")),
            ("kai://user.ada", Some("user:ada")),
            ("user:ada", Some("user:ada")),
            ("kPlanner:research", Some("kPlanner:research")),
            ("topic://a.b", None),
            ("policy://p", None),
        ] {
            assert_eq!(owner_of(&address(text)).as_deref(), owner, "{text}");
        }
    }

    #[test]
    fn checkpoints_are_co_signed_only_onwards() {
        let mut ring = KeyRing::default();
        let seen = |size, root: &str| Witnessed {
            size,
            root: root.to_owned(),
        };
        let event = ring.witness("log", 0, &seen(5, "a")).unwrap().unwrap();
        ring.apply(at(1), &event);
        assert_eq!(ring.witness("log", 5, &seen(5, "a")), Ok(None));
        for (old, new) in [
            (0, seen(9, "b")),
            (5, seen(5, "b")),
            (5, seen(4, "b")),
            (4, seen(9, "b")),
        ] {
            let refused = ring.witness("log", old, &new);
            assert_eq!(
                refused,
                Err(WitnessRefusal::Conflict { last: 5 }),
                "{old} {new:?}"
            );
        }
        assert!(ring.witness("log", 5, &seen(9, "b")).unwrap().is_some());
    }

    /// The key `from` hands over a log to the key `to`.
    fn handed_over(number: u64, (from, to): (u8, u8), size: u64) -> LogSuccession {
        LogSuccession {
            origin: key(1),
            number,
            old: key(from),
            new: key(to),
            size,
            root: format!("{size:064x}"),
            compromised: false,
            note: String::new(),
        }
    }

    fn take(ring: &mut KeyRing, event: Option<SentinelEvent>) {
        ring.apply(Timestamp::ZERO, &event.unwrap());
    }

    fn witnessing() -> KeyRing {
        let mut ring = KeyRing::default();
        let owner = Address::node("first").unwrap();
        let registered = ring.register(key(1), &owner).unwrap();
        take(&mut ring, registered);
        let seen = Witnessed {
            size: 10,
            root: format!("{:064x}", 10),
        };
        let witnessed = ring.witness(&key(1).to_string(), 0, &seen).unwrap();
        take(&mut ring, witnessed);
        ring
    }

    #[test]
    fn a_log_is_followed_from_key_to_key_and_nobody_comes_back() {
        let mut ring = witnessing();
        let first = handed_over(1, (1, 2), 12);
        let event = ring.succeed(10, first.clone()).unwrap();
        take(&mut ring, event);
        assert_eq!(ring.log_key(&key(1)), Some(key(2)));
        assert_eq!(
            ring.log_key(&key(2)),
            Some(key(2)),
            "it is a key like others"
        );
        assert_eq!(ring.key_of("kai://node.first"), Some(key(2)));
        assert_eq!(ring.owner(&key(1)), None);
        assert_eq!(ring.witnessed(&key(1).to_string()).unwrap().size, 12);
        assert_eq!(ring.succeed(12, first).unwrap(), None, "known");
        for (refused, old) in [
            // Another key for the same number, the old key once more, one that was there, one in between left out.
            (handed_over(1, (1, 9), 12), 12),
            (handed_over(2, (1, 9), 13), 12),
            (handed_over(2, (2, 1), 13), 12),
            (handed_over(3, (2, 3), 13), 12),
        ] {
            let told = ring.succeed(old, refused).unwrap_err();
            assert!(matches!(told, WitnessRefusal::NotNext(_)), "{told}");
        }
        // From where another tree was co-signed, or over fewer records than that.
        let told = ring.succeed(10, handed_over(2, (2, 3), 13)).unwrap_err();
        assert_eq!(told, WitnessRefusal::Conflict { last: 12 });
        for size in [0, 11, 12] {
            let told = ring.succeed(12, handed_over(2, (2, 3), size)).unwrap_err();
            assert!(matches!(told, WitnessRefusal::NotNext(_)), "{told}");
        }
        let mut early = witnessing();
        let told = early.succeed(10, handed_over(1, (1, 2), 9)).unwrap_err();
        assert_eq!(told, WitnessRefusal::Conflict { last: 10 });
        let event = early.succeed(10, handed_over(1, (1, 2), 10)).unwrap();
        take(&mut early, event);
        let event = ring.succeed(12, handed_over(2, (2, 3), 13)).unwrap();
        take(&mut ring, event);
        let kept: KeyRing = serde_json::from_str(&serde_json::to_string(&ring).unwrap()).unwrap();
        assert_eq!(kept, ring);
        assert_eq!(ring.log_key(&key(1)), Some(key(3)));
        let revoked = ring.revoke(key(3), "").unwrap();
        take(&mut ring, revoked);
        assert_eq!(ring.log_key(&key(1)), None);
        let told = ring.succeed(13, handed_over(3, (3, 4), 14)).unwrap_err();
        assert!(matches!(told, WitnessRefusal::NotNext(_)));
    }

    #[test]
    fn a_log_that_nobody_registered_is_not_followed() {
        let ring = KeyRing::default();
        let told = ring.succeed(0, handed_over(1, (1, 2), 12)).unwrap_err();
        assert!(matches!(told, WitnessRefusal::NotNext(_)));
        // As it was stored before there were successions.
        let old: KeyRing =
            serde_json::from_str(r#"{"keys":{},"current":{},"witnessed":{}}"#).unwrap();
        assert_eq!(old, ring);
    }
}
