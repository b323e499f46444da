//! Topic patterns of the event stream.

/// Longest pattern. Topics are shorter, and each event is compared with each reader's pattern.
const PATTERN_MAX: usize = 256;

/// A pattern such as `agent.echo.*`: `*` stands for one or more segments, anywhere and any number of times.
///
/// An agent's id may hold dots, hence "or more": `agent.*.error` finds the errors of `my.agent`, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topic(Vec<String>);

impl Topic {
    /// Reads a pattern.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > PATTERN_MAX {
            return Err(format!("expected at most {PATTERN_MAX} characters"));
        }
        let segments: Vec<String> = text.split('.').map(str::to_owned).collect();
        let sound =
            |segment: &String| !segment.is_empty() && (segment == "*" || !segment.contains('*'));
        if segments.iter().all(sound) {
            Ok(Self(segments))
        } else {
            Err("expected segments between dots, each of them a name or *".to_owned())
        }
    }

    /// Whether it covers a topic.
    pub(crate) fn covers(&self, topic: &str) -> bool {
        let topic: Vec<&str> = topic.split('.').collect();
        let (mut at, mut here) = (0, 0);
        // Where the last `*` stands, and how far its run has come: on a mismatch it takes one segment more.
        let mut star: Option<(usize, usize)> = None;
        while here < topic.len() {
            match self.0.get(at).map(String::as_str) {
                Some("*") => {
                    star = Some((at, here + 1));
                    (at, here) = (at + 1, here + 1);
                }
                Some(name) if name == topic[here] => (at, here) = (at + 1, here + 1),
                _ => {
                    let Some((back, taken)) = star else {
                        return false;
                    };
                    star = Some((back, taken + 1));
                    (at, here) = (back + 1, taken + 1);
                }
            }
        }
        at == self.0.len() && here == topic.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Topic;

    #[test]
    fn a_star_stands_for_one_or_more_segments() {
        for (pattern, topic, covered) in [
            ("*", "task.succeeded", true),
            ("agent.echo.*", "agent.echo.started", true),
            ("agent.echo.*", "agent.echo.fault.changed", true),
            ("agent.echo.*", "agent.echo", false),
            ("agent.*.error", "agent.echo.error", true),
            ("agent.*.error", "agent.my.bot.error", true),
            ("agent.*.error", "agent.error", false),
            ("agent.*.error", "agent.echo.error.more", false),
            ("*.*", "task", false),
            ("*.b.*.d", "a.b.b.c.d", true),
            ("task.succeeded", "task.succeeded", true),
            ("task.succeeded", "task.succeeded.x", false),
        ] {
            assert_eq!(
                Topic::parse(pattern).expect("sound").covers(topic),
                covered,
                "{pattern} {topic}"
            );
        }
        for pattern in ["", "a..b", ".a", "a.", "a*", &"a".repeat(300)] {
            assert!(Topic::parse(pattern).is_err(), "{pattern}");
        }
    }

    /// The obvious, exponential way.
    fn covers(pattern: &[&str], topic: &[&str]) -> bool {
        match (pattern, topic) {
            ([], []) => true,
            (["*", rest @ ..], [_, more @ ..]) => covers(rest, more) || covers(pattern, more),
            ([name, rest @ ..], [here, more @ ..]) => name == here && covers(rest, more),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn covering_agrees_with_its_definition(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*"]), 1..6),
            topic in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 1..8),
        ) {
            let parsed = Topic::parse(&pattern.join(".")).expect("sound");
            prop_assert_eq!(parsed.covers(&topic.join(".")), covers(&pattern, &topic));
        }
    }
}
