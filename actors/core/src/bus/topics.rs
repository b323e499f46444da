//! Who wants a topic, found by its segments: looking one up costs what matches, whatever the number of subscriptions.

use std::collections::{BTreeMap, BTreeSet};

use mesh_messages::AgentId;
use mesh_messages::address::TopicPattern;

/// What stands for one segment.
const ONE: &str = "*";
/// What stands for the rest.
const REST: &str = ">";

/// Somebody who wants a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    /// An agent, while it is up.
    Live(AgentId),
    /// A durable subscription.
    Durable(String),
}

/// Patterns and who wants them, as a tree of segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Topics {
    next: BTreeMap<Box<str>, Topics>,
    // Those whose pattern ends here.
    here: BTreeSet<Who>,
    // Those whose pattern goes on with `>`.
    rest: BTreeSet<Who>,
}

impl Topics {
    pub(super) fn insert(&mut self, pattern: &TopicPattern, who: Who) {
        let mut node = self;
        for segment in pattern.as_str().split('.') {
            if segment == REST {
                node.rest.insert(who);
                return;
            }
            node = node.next.entry(segment.into()).or_default();
        }
        node.here.insert(who);
    }

    pub(super) fn remove(&mut self, pattern: &TopicPattern, who: &Who) {
        let segments: Vec<&str> = pattern.as_str().split('.').collect();
        self.take(&segments, who);
    }

    fn take(&mut self, segments: &[&str], who: &Who) {
        match segments {
            [] => {
                self.here.remove(who);
            }
            [REST] => {
                self.rest.remove(who);
            }
            [first, more @ ..] => {
                let Some(node) = self.next.get_mut(*first) else {
                    return;
                };
                node.take(more, who);
                if node.is_empty() {
                    self.next.remove(*first);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.next.is_empty() && self.here.is_empty() && self.rest.is_empty()
    }

    /// Everybody who wants a topic without wildcards, each once.
    pub(super) fn wanting(&self, topic: &TopicPattern) -> BTreeSet<&Who> {
        let segments: Vec<&str> = topic.as_str().split('.').collect();
        let mut found = BTreeSet::new();
        self.collect(&segments, &mut found);
        found
    }

    fn collect<'a>(&'a self, segments: &[&str], found: &mut BTreeSet<&'a Who>) {
        let [first, more @ ..] = segments else {
            found.extend(&self.here);
            return;
        };
        found.extend(&self.rest);
        for name in [*first, ONE] {
            if let Some(node) = self.next.get(name) {
                node.collect(more, found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern() -> impl Strategy<Value = TopicPattern> {
        let segment = prop::sample::select(vec!["a", "b", "*"]);
        (
            prop::collection::vec(segment, 0..4),
            prop::sample::select(vec![">", "a", "b", "*"]),
        )
            .prop_map(|(mut segments, last)| {
                segments.push(last);
                segments.join(".").parse().unwrap()
            })
    }

    proptest! {
        #[test]
        fn the_tree_finds_who_a_look_at_every_pattern_finds(
            kept in prop::collection::vec((pattern(), 0..9_u8), 0..24),
            removed in prop::collection::vec((pattern(), 0..9_u8), 0..24),
            topic in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..6),
        ) {
            let who = |n: &u8| Who::Durable(n.to_string());
            let mut topics = Topics::default();
            for (pattern, n) in kept.iter().chain(&removed) {
                topics.insert(pattern, who(n));
            }
            for (pattern, n) in &removed {
                topics.remove(pattern, &who(n));
            }
            let kept: Vec<_> = kept.iter().filter(|entry| !removed.contains(entry)).collect();
            let topic: TopicPattern = topic.join(".").parse().unwrap();
            let all: BTreeSet<Who> = kept.iter().filter(|(p, _)| p.matches(&topic)).map(|(_, n)| who(n)).collect();
            let found: BTreeSet<Who> = topics.wanting(&topic).into_iter().cloned().collect();
            prop_assert_eq!(found, all);
            for (pattern, n) in &kept {
                topics.remove(pattern, &who(n));
            }
            prop_assert!(topics.is_empty());
        }
    }
}
