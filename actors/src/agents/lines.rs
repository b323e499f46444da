//! Lines from and to a process, bounded on every side.
//!
//! ```text
//!  process stdout ──► reader task ──(permits)──► instance actor ──(bounded queue)──► writer task ──► process stdin
//! ```
//! The reader hands over one line at a time and waits for a permit before the next, so an agent that floods is slowed
//! to the pace at which its lines are handled, and fills its own pipe. The writer never blocks the actor: a full queue
//! or a write that takes too long means that the agent does not read, which is for the instance to judge.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{Semaphore, mpsc};

use super::live::LOG_LINE_BYTES_MAX;
use crate::secrets::Blotter;

/// Longest line that is taken, in bytes: one KLP envelope.
pub(crate) const LINE_MAX: usize = 1024 * 1024;
/// What is kept of a line beyond the limit, on either end: more than an envelope has beside its payload.
pub(crate) const ENDS_MAX: usize = 4096;
/// Lines of one agent that wait to be handled. The agent waits beyond that.
pub(crate) const LINES_IN_MAX: usize = 64;
/// Lines that wait to be written to one agent. One that lets more pile up does not read.
pub(crate) const LINES_OUT_MAX: usize = 1024;
/// How long one line may take to be written before the agent counts as not reading.
pub(crate) const WRITE_STALL_MAX: Duration = Duration::from_secs(30);

/// What a reader saw.
#[derive(Debug)]
pub(crate) enum Input {
    /// A line without its end.
    Line(Vec<u8>),
    /// A line beyond [`LINE_MAX`] was passed over, but for its first and its last [`ENDS_MAX`] bytes: they tell what it
    /// was about.
    TooLong(Vec<u8>),
    /// Nothing more will come.
    End,
}

/// Paces a reader: at most `rate` lines a second, and as many at once.
fn pace(rate: u32) -> DefaultDirectRateLimiter {
    RateLimiter::direct(Quota::per_second(
        NonZeroU32::new(rate).unwrap_or(NonZeroU32::MIN),
    ))
}

/// Reads lines until the end or until `take` says that nobody wants them; waits for a permit before handing one over,
/// and hands over at most `rate` lines a second.
pub(crate) async fn read_lines(
    source: impl AsyncRead + Unpin + Send,
    permits: Arc<Semaphore>,
    rate: u32,
    mut take: impl FnMut(Input) -> bool + Send,
) {
    let pace = pace(rate);
    let mut reader = BufReader::with_capacity(16 * 1024, source);
    let mut line = Vec::new();
    let mut end = Vec::new();
    let mut passing_over = false;
    while let Ok(chunk) = reader.fill_buf().await {
        if chunk.is_empty() {
            break;
        }
        let newline = chunk.iter().position(|b| *b == b'\n');
        let upto = newline.unwrap_or(chunk.len());
        if !passing_over {
            if line.len() + upto > LINE_MAX {
                passing_over = true;
                let from_chunk = ENDS_MAX.saturating_sub(line.len()).min(upto);
                line.extend_from_slice(&chunk[..from_chunk]);
                line.truncate(ENDS_MAX);
                line.shrink_to_fit();
            } else {
                line.extend_from_slice(&chunk[..upto]);
            }
        }
        if passing_over {
            keep_end(&mut end, &chunk[..upto]);
        }
        reader.consume(upto + usize::from(newline.is_some()));
        if newline.is_none() {
            continue;
        }
        let input = if std::mem::take(&mut passing_over) {
            line.append(&mut end);
            Input::TooLong(std::mem::take(&mut line))
        } else {
            Input::Line(std::mem::take(&mut line))
        };
        pace.until_ready().await;
        // The actor gives the permit back when it has handled the line.
        let Ok(permit) = permits.acquire().await else {
            return;
        };
        permit.forget();
        if !take(input) {
            return;
        }
    }
    // A last line without its end is still a line.
    let last = match (passing_over, line.is_empty()) {
        (true, _) => {
            line.append(&mut end);
            Some(Input::TooLong(line))
        }
        (false, false) => Some(Input::Line(line)),
        (false, true) => None,
    };
    if let Some(last) = last {
        let Ok(permit) = permits.acquire().await else {
            return;
        };
        permit.forget();
        if !take(last) {
            return;
        }
    }
    take(Input::End);
}

/// Keeps the last [`ENDS_MAX`] bytes of what passes by.
fn keep_end(end: &mut Vec<u8>, chunk: &[u8]) {
    let chunk = &chunk[chunk.len().saturating_sub(ENDS_MAX)..];
    let surplus = (end.len() + chunk.len()).saturating_sub(ENDS_MAX);
    end.drain(..surplus);
    end.extend_from_slice(chunk);
}

/// Reads an agent's log until its end, at most `rate` lines a second, and blots secrets out. Lines too long are cut into
/// pieces, in the midst of no secret.
pub(crate) async fn read_log(
    source: impl AsyncRead + Unpin + Send,
    rate: u32,
    (blotter, mut sink): (Blotter, impl FnMut(Vec<u8>) + Send),
) {
    let overlap = blotter.overlap();
    let pace = pace(rate);
    let mut reader = BufReader::with_capacity(LOG_LINE_BYTES_MAX, source);
    let mut line = Vec::new();
    while let Ok(chunk) = reader.fill_buf().await {
        if chunk.is_empty() {
            break;
        }
        let newline = chunk.iter().position(|b| *b == b'\n');
        let upto = newline.unwrap_or(chunk.len());
        line.extend_from_slice(&chunk[..upto]);
        reader.consume(upto + usize::from(newline.is_some()));
        // What goes on is cut only when it is known whether a secret lies across the cut.
        while line.len() >= LOG_LINE_BYTES_MAX + overlap {
            let rest = line.split_off(blotter.cut(&line, LOG_LINE_BYTES_MAX));
            pace.until_ready().await;
            sink(blotter.blot(std::mem::replace(&mut line, rest)));
        }
        if newline.is_some() {
            pace.until_ready().await;
            sink(blotter.blot(std::mem::take(&mut line)));
        }
    }
    if !line.is_empty() {
        sink(blotter.blot(line));
    }
}

/// Why lines can no longer be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteEnd {
    /// The process closed its input, or everything was written.
    Closed,
    /// It does not read.
    Stalled,
}

/// Writes queued lines, each with its newline, until the queue or the pipe closes, or a line takes longer than `stall`.
pub(crate) async fn write_lines(
    mut sink: impl AsyncWrite + Unpin + Send,
    mut queue: mpsc::Receiver<Vec<u8>>,
    stall: Duration,
) -> WriteEnd {
    while let Some(line) = queue.recv().await {
        match tokio::time::timeout(stall, sink.write_all(&line)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return WriteEnd::Closed,
            Err(_) => return WriteEnd::Stalled,
        }
    }
    WriteEnd::Closed
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines_of(bytes: &[u8]) -> Vec<String> {
        let mut seen = Vec::new();
        let permits = Arc::new(Semaphore::new(1000));
        read_lines(bytes, permits, 1000, |input| {
            seen.push(match input {
                Input::Line(line) => String::from_utf8_lossy(&line).into_owned(),
                Input::TooLong(ends) => {
                    assert!(ends.len() <= 2 * ENDS_MAX);
                    let text = String::from_utf8_lossy(&ends);
                    let inner = text.trim_matches('x');
                    format!("<too long{inner}>")
                }
                Input::End => "<end>".to_owned(),
            });
            true
        })
        .await;
        seen
    }

    #[tokio::test]
    async fn lines_are_cut_at_newlines_and_the_last_needs_none() {
        assert_eq!(lines_of(b"a\n\nb").await, ["a", "", "b", "<end>"]);
    }

    #[tokio::test]
    async fn a_line_beyond_the_limit_is_passed_over_and_the_next_one_read() {
        let mut bytes = vec![b'x'; LINE_MAX + 1];
        bytes.extend_from_slice(b"\nok\n");
        assert_eq!(lines_of(&bytes).await, ["<too long>", "ok", "<end>"]);
    }

    #[tokio::test]
    async fn a_last_line_beyond_the_limit_is_not_lost_without_a_word() {
        let bytes = vec![b'x'; LINE_MAX + 1];
        assert_eq!(lines_of(&bytes).await, ["<too long>", "<end>"]);
    }

    #[tokio::test]
    async fn of_a_line_beyond_the_limit_both_ends_are_kept() {
        let mut bytes = b"head".to_vec();
        bytes.extend(vec![b'x'; 3 * LINE_MAX]);
        bytes.extend_from_slice(b"tail\n");
        let seen = lines_of(&bytes).await;
        assert!(seen[0].starts_with("<too longhead"), "{}", &seen[0][..20]);
        assert!(seen[0].ends_with("tail>"));
    }

    /// What a log with this secret shows of these bytes, which come in chunks of that size.
    async fn log_of(secret: &str, bytes: &[u8], chunk: usize) -> Vec<String> {
        let (near, mut far) = tokio::io::duplex(chunk);
        let mut seen = Vec::new();
        let sink = |line: Vec<u8>| seen.push(String::from_utf8(line).unwrap());
        let blotter = Blotter::of("db", secret);
        let reading = read_log(near, 1_000_000, (blotter, sink));
        let writing = async {
            far.write_all(bytes).await.unwrap();
            drop(far);
        };
        tokio::join!(reading, writing);
        seen
    }

    #[tokio::test]
    async fn a_secret_is_blotted_out_wherever_a_long_line_is_cut() {
        const SECRET: &str = "correct-horse-battery-staple";
        for before in LOG_LINE_BYTES_MAX - 2 * SECRET.len()..LOG_LINE_BYTES_MAX + SECRET.len() {
            let text = format!("{}{SECRET}{}\n", "x".repeat(before), "y".repeat(6000));
            for chunk in [977, 4096, 64 * 1024] {
                let shown = log_of(SECRET, text.as_bytes(), chunk).await;
                assert!(
                    shown
                        .iter()
                        .all(|piece| piece.len() <= LOG_LINE_BYTES_MAX + 64)
                );
                let whole = shown.concat();
                assert_eq!(whole.matches("[secret db]").count(), 1, "{before} {chunk}");
                for part in SECRET.as_bytes().windows(4) {
                    let part = std::str::from_utf8(part).unwrap();
                    assert!(!whole.contains(part), "{part} at {before} {chunk}");
                }
                assert_eq!(whole.len(), before + 6000 + "[secret db]".len());
            }
        }
    }

    #[tokio::test]
    async fn a_secret_longer_than_a_piece_is_blotted_out_too() {
        let parts: Vec<String> = (0..2000).map(|n| format!("{n:05}.")).collect();
        let secret = parts.concat();
        let text = format!("before {secret} after{}\n", "z".repeat(20_000));
        let shown = log_of(&secret, text.as_bytes(), 4096).await.concat();
        assert!(
            shown.starts_with("before [secret db] after"),
            "{}",
            &shown[..60]
        );
        assert!(!shown.contains("00001."));
    }

    #[tokio::test]
    async fn a_line_of_just_the_limit_is_taken() {
        let mut bytes = vec![b'x'; LINE_MAX];
        bytes.push(b'\n');
        assert_eq!(lines_of(&bytes).await[0].len(), LINE_MAX);
    }

    #[tokio::test]
    async fn a_process_that_does_not_read_is_found_out() {
        let (near, _far) = tokio::io::duplex(4);
        let (tx, rx) = mpsc::channel(1);
        let writer = tokio::task::spawn(write_lines(near, rx, Duration::from_millis(1)));
        tx.send(b"more than four bytes\n".to_vec()).await.unwrap();
        assert_eq!(writer.await.unwrap(), WriteEnd::Stalled);
    }

    #[tokio::test]
    async fn a_closed_queue_is_written_to_its_end_and_then_the_pipe_is_closed() {
        let (near, mut far) = tokio::io::duplex(64);
        let (tx, rx) = mpsc::channel(4);
        tx.send(b"a\n".to_vec()).await.unwrap();
        tx.send(b"b\n".to_vec()).await.unwrap();
        drop(tx);
        assert_eq!(
            write_lines(near, rx, WRITE_STALL_MAX).await,
            WriteEnd::Closed
        );
        let mut seen = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut far, &mut seen)
            .await
            .unwrap();
        assert_eq!(seen, "a\nb\n");
    }

    #[tokio::test]
    async fn without_permits_nothing_is_handed_over() {
        let permits = Arc::new(Semaphore::new(1));
        let (tx, mut rx) = mpsc::unbounded_channel();
        let reader = {
            let permits = Arc::clone(&permits);
            async move {
                read_lines(&b"a\nb\n"[..], permits, 1000, |input| {
                    tx.send(matches!(input, Input::Line(_))).is_ok()
                })
                .await;
            }
        };
        let task = tokio::task::spawn(reader);
        assert_eq!(rx.recv().await, Some(true));
        assert!(rx.try_recv().is_err());
        permits.add_permits(1);
        assert_eq!(rx.recv().await, Some(true));
        task.await.expect("reader ends");
    }
}
