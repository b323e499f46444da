//! The agent's side of a connection: what flows is noticed, and slowed down where a rate is set.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota};
use std::num::NonZeroU32;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::bounds::Bounds;

/// Least that is paid for at once, and least burst: fewer bytes would be calls without end.
const QUANTUM_MIN: u32 = 1024;

/// Most that is paid for at once: a buffer's worth.
const QUANTUM_MAX: u32 = 64 * 1024;

/// How long is waited at most before it is looked again what the rate is: it may have been changed.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A rate that several connections share. What may come at once, beyond it, is a tenth of a second's worth.
#[derive(Debug)]
pub(crate) struct Rate {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
    quantum: u32,
}

impl Rate {
    pub(crate) fn new(bytes_per_second: u32) -> Self {
        let quantum = (bytes_per_second / 100).clamp(QUANTUM_MIN, QUANTUM_MAX);
        let burst = (bytes_per_second / 10).max(quantum);
        let number = |value| NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(number(bytes_per_second)).allow_burst(number(burst));
        Self {
            limiter: DefaultDirectRateLimiter::direct(quota),
            clock: DefaultClock::default(),
            quantum,
        }
    }

    /// Pays for bytes that are to be moved, at most a quantum; how long to wait before paying again when it cannot be paid
    /// now.
    fn pay(&self, bytes: NonZeroU32) -> Result<(), Duration> {
        match self.limiter.check_n(bytes) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(until.wait_time_from(self.clock.now())),
            // More than the burst, which no quantum is.
            Err(_) => Err(LOOK_AGAIN),
        }
    }
}

/// Counts bytes, so that somebody may see that nothing moves any more.
#[derive(Debug, Clone, Default)]
pub(crate) struct Activity(Arc<AtomicU64>);

impl Activity {
    /// Returns when nothing has moved for that long.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            let before = self.0.load(Ordering::Relaxed);
            tokio::time::sleep(limit).await;
            if self.0.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

/// A stream whose bytes are counted and paid for.
#[derive(Debug)]
pub(crate) struct Metered<S> {
    stream: S,
    /// Bytes that were read before, and come first.
    first: Vec<u8>,
    given: usize,
    activity: Activity,
    bounds: Arc<Bounds>,
    reading: Credit,
    writing: Credit,
}

/// Bytes paid for and not moved yet.
#[derive(Debug, Default)]
struct Credit {
    bytes: u32,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Credit {
    /// How many of `wanted` bytes may be moved now: at least one, once there is a place for any.
    fn obtain(&mut self, bounds: &Bounds, wanted: usize, cx: &mut Context<'_>) -> Poll<usize> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            let Some(rate) = bounds.rate() else {
                return Poll::Ready(wanted);
            };
            let most = u32::try_from(wanted).unwrap_or(u32::MAX).min(rate.quantum);
            let Some(lacking) = NonZeroU32::new(most.saturating_sub(self.bytes)) else {
                return Poll::Ready(wanted.min(self.bytes as usize));
            };
            match rate.pay(lacking) {
                Ok(()) => self.bytes = most,
                Err(time) => {
                    let until = Instant::now() + time.min(LOOK_AGAIN);
                    self.wait = Some(Box::pin(tokio::time::sleep_until(until)));
                }
            }
        }
    }

    fn spend(&mut self, bytes: usize) {
        self.bytes = self
            .bytes
            .saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
    }
}

impl<S> Metered<S> {
    pub(crate) fn new(stream: S, first: Vec<u8>, activity: Activity, bounds: Arc<Bounds>) -> Self {
        Self {
            stream,
            first,
            given: 0,
            activity,
            bounds,
            reading: Credit::default(),
            writing: Credit::default(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let most = ready!(this.reading.obtain(&this.bounds, buf.remaining(), cx));
        let rest = this.first.get(this.given..).unwrap_or_default();
        let moved = if rest.is_empty() {
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(most));
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
            part.filled().len()
        } else {
            let count = rest.len().min(most);
            buf.initialize_unfilled_to(count)
                .copy_from_slice(&rest[..count]);
            this.given += count;
            count
        };
        buf.advance(moved);
        this.activity.0.fetch_add(moved as u64, Ordering::Relaxed);
        this.reading.spend(moved);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let most = ready!(this.writing.obtain(&this.bounds, bytes.len(), cx));
        let moved = ready!(Pin::new(&mut this.stream).poll_write(cx, &bytes[..most]))?;
        this.activity.0.fetch_add(moved as u64, Ordering::Relaxed);
        this.writing.spend(moved);
        Poll::Ready(Ok(moved))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// The limiter reads the real clock, so this takes the time that it is about.
    #[tokio::test]
    async fn three_seconds_worth_takes_three_seconds_whichever_way_it_goes() {
        const RATE: u32 = 100_000;
        let bounds = Arc::new(Bounds::new(1, Some(RATE)));
        let (near, far) = tokio::io::duplex(1 << 20);
        let metered = Metered::new(near, Vec::new(), Activity::default(), bounds);
        let (mut inward, mut outward) = tokio::io::split(metered);
        let (mut answers, mut asks) = tokio::io::split(far);
        let half = vec![7; 3 * RATE as usize / 2];
        let begin = Instant::now();
        asks.write_all(&half).await.unwrap();
        let (mut read, mut heard) = (half.clone(), half.clone());
        let (one, two, three) = tokio::join!(
            inward.read_exact(&mut read),
            outward.write_all(&half),
            answers.read_exact(&mut heard)
        );
        one.unwrap();
        two.unwrap();
        three.unwrap();
        let took = begin.elapsed();
        assert!(
            (Duration::from_millis(2_700)..Duration::from_secs(15)).contains(&took),
            "{took:?}"
        );
    }

    #[tokio::test]
    async fn what_was_read_before_comes_first() {
        let (mut far, near) = tokio::io::duplex(64);
        let bounds = Arc::new(Bounds::new(1, None));
        let mut metered = Metered::new(near, b"first ".to_vec(), Activity::default(), bounds);
        far.write_all(b"then").await.unwrap();
        drop(far);
        let mut text = String::new();
        metered.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "first then");
    }

    #[tokio::test]
    async fn a_rate_that_is_raised_frees_what_waits_for_it() {
        const MANY: usize = 256 * 1024;
        let (mut far, near) = tokio::io::duplex(2 * MANY);
        let bounds = Arc::new(Bounds::new(1, Some(1)));
        let mut metered = Metered::new(near, Vec::new(), Activity::default(), Arc::clone(&bounds));
        far.write_all(&vec![7; MANY]).await.unwrap();
        drop(far);
        let mut bytes = Vec::new();
        let reading = metered.read_to_end(&mut bytes);
        tokio::pin!(reading);
        // At a byte a second the rest would take days.
        let slow = tokio::time::timeout(Duration::from_millis(400), &mut reading).await;
        assert!(slow.is_err());
        bounds.set(1, None);
        let freed = tokio::time::timeout(Duration::from_secs(20), reading).await;
        assert_eq!(freed.unwrap().unwrap(), MANY);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_noticed() {
        let activity = Activity::default();
        let seen = tokio::time::timeout(
            Duration::from_secs(11),
            activity.idle(Duration::from_secs(10)),
        );
        assert!(seen.await.is_ok());
    }
}
