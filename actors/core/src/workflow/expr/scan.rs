//! Finding expressions in texts, without reading them.

use std::collections::BTreeSet;

use super::InvalidExpression;

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// As it stands; `$${` is `${` by now.
    Plain(String),
    /// What stands between `${` and `}`.
    Expression(&'a str),
}

/// Splits a text into plain pieces and expressions.
///
/// # Errors
/// [`InvalidExpression`] when an expression does not end.
pub(crate) fn pieces(text: &str) -> Result<Vec<Piece<'_>>, InvalidExpression> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if at > 0 && rest.as_bytes()[at - 1] == b'$' {
            // `$${` is how `${` itself is written.
            plain.push_str(&rest[..at - 1]);
            plain.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        plain.push_str(&rest[..at]);
        let body = &rest[at + 2..];
        let Some(end) = end_of(body) else {
            return Err(InvalidExpression(
                "an expression begins with ${ and does not end with }".to_owned(),
            ));
        };
        if !plain.is_empty() {
            pieces.push(Piece::Plain(std::mem::take(&mut plain)));
        }
        pieces.push(Piece::Expression(&body[..end]));
        rest = &body[end + 1..];
    }
    plain.push_str(rest);
    if !plain.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Plain(plain));
    }
    Ok(pieces)
}

/// Where the brace is that ends an expression: braces of its own and those in its texts apart.
fn end_of(body: &str) -> Option<usize> {
    let (mut depth, mut quote, mut escaped) = (0_u32, None, false);
    for (at, c) in body.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (Some(_) | None, _) => {}
        }
    }
    None
}

/// How many characters outside of texts may make the expression deeper.
pub(crate) fn operators(text: &str) -> usize {
    let (mut quote, mut escaped, mut count) = (None, false, 0);
    for c in text.chars() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, c) => count += usize::from("+-*/%<>=!&|?.([{".contains(c)),
        }
    }
    // Words can be operators, too.
    count + text.matches(" in ").count()
}

/// What CEL reads as something else than a name.
const KEYWORDS: [&str; 4] = ["in", "true", "false", "null"];

/// Writes `steps.a-b` as `steps["a-b"]` where a step is called so: CEL would subtract. Likewise `steps.in`, `steps.2nd`.
pub(crate) fn quote_ids(text: &str, ids: &BTreeSet<&str>) -> String {
    let odd = |id: &&str| {
        id.contains(['-', '.'])
            || id.starts_with(|c: char| c.is_ascii_digit())
            || KEYWORDS.contains(id)
    };
    let special: Vec<&str> = ids.iter().copied().filter(odd).collect();
    if special.is_empty() {
        return text.to_owned();
    }
    let mut out = String::new();
    let (mut quote, mut escaped, mut before) = (None, false, ' ');
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let in_name = before.is_ascii_alphanumeric() || before == '_' || before == '.';
        if quote.is_none()
            && !in_name
            && let Some(after) = rest.strip_prefix("steps.")
            && let Some(id) = longest(&special, after)
        {
            out.push_str("steps[\"");
            out.push_str(id);
            out.push_str("\"]");
            rest = &after[id.len()..];
            before = ']';
            continue;
        }
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), c) if q == c => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (Some(_) | None, _) => {}
        }
        out.push(c);
        before = c;
        rest = &rest[c.len_utf8()..];
    }
    out
}

fn longest<'i>(ids: &[&'i str], text: &str) -> Option<&'i str> {
    let ends = |rest: &str| {
        let next = rest.chars().next();
        next.is_none_or(|c| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
    };
    let fits = |id: &&&str| text.strip_prefix(**id).is_some_and(ends);
    ids.iter().filter(fits).max_by_key(|id| id.len()).copied()
}
