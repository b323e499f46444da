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

/// Least rate and least burst: a buffer's worth, so that what was moved at once can always be paid for.
const BURST_MIN: u32 = 256 * 1024;

/// How long is waited at most before it is looked again what the rate is: it may have been changed.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// A rate that several connections share.
#[derive(Debug)]
pub(crate) struct Rate {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
    burst: u32,
}

impl Rate {
    pub(crate) fn new(bytes_per_second: u32) -> Self {
        let burst = NonZeroU32::new(bytes_per_second.max(BURST_MIN)).unwrap_or(NonZeroU32::MIN);
        let rate = NonZeroU32::new(bytes_per_second).unwrap_or(NonZeroU32::MIN);
        let clock = DefaultClock::default();
        Self {
            limiter: DefaultDirectRateLimiter::direct(Quota::per_second(rate).allow_burst(burst)),
            clock,
            burst: burst.get(),
        }
    }

    /// Pays for bytes that were moved; how long to wait before paying again when it cannot be paid now.
    fn pay(&self, bytes: u32) -> Result<(), Duration> {
        let Some(bytes) = NonZeroU32::new(bytes.min(self.burst)) else {
            return Ok(());
        };
        match self.limiter.check_n(bytes) {
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(until)) => Err(until.wait_time_from(self.clock.now())),
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
    reading: Debt,
    writing: Debt,
}

/// Bytes moved and not paid for yet.
#[derive(Debug, Default)]
struct Debt {
    bytes: u32,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Debt {
    fn settle(&mut self, bounds: &Bounds, cx: &mut Context<'_>) -> Poll<()> {
        while self.bytes > 0 {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
                self.wait = None;
            }
            match bounds.rate().map_or(Ok(()), |rate| rate.pay(self.bytes)) {
                Ok(()) => self.bytes = 0,
                Err(time) => {
                    let until = Instant::now() + time.min(LOOK_AGAIN);
                    self.wait = Some(Box::pin(tokio::time::sleep_until(until)));
                }
            }
        }
        Poll::Ready(())
    }

    fn owe(&mut self, bytes: usize) {
        self.bytes = self
            .bytes
            .saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
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
            reading: Debt::default(),
            writing: Debt::default(),
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
        ready!(this.reading.settle(&this.bounds, cx));
        let before = buf.filled().len();
        let rest = this.first.get(this.given..).unwrap_or_default();
        if rest.is_empty() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        } else {
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            this.given += count;
        }
        let moved = buf.filled().len() - before;
        this.activity.0.fetch_add(moved as u64, Ordering::Relaxed);
        this.reading.owe(moved);
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
        ready!(this.writing.settle(&this.bounds, cx));
        let moved = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.activity.0.fetch_add(moved as u64, Ordering::Relaxed);
        this.writing.owe(moved);
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

    #[tokio::test(start_paused = true)]
    async fn a_rate_holds_over_all_connections_together() {
        // The limiter reads the real clock, so only the waiting is simulated: what counts is that it waits at all.
        let rate = Arc::new(Rate::new(BURST_MIN));
        assert_eq!(rate.pay(BURST_MIN), Ok(()));
        let wait = rate.pay(BURST_MIN / 2).unwrap_err();
        assert!(
            wait > Duration::from_millis(300) && wait < Duration::from_secs(1),
            "{wait:?}"
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
        let (mut far, near) = tokio::io::duplex(4 * BURST_MIN as usize);
        let bounds = Arc::new(Bounds::new(1, Some(1)));
        let mut metered = Metered::new(near, Vec::new(), Activity::default(), Arc::clone(&bounds));
        far.write_all(&vec![7; 3 * BURST_MIN as usize])
            .await
            .unwrap();
        drop(far);
        let mut bytes = Vec::new();
        let reading = metered.read_to_end(&mut bytes);
        tokio::pin!(reading);
        // At a byte a second the rest would take days.
        let slow = tokio::time::timeout(Duration::from_millis(400), &mut reading).await;
        assert!(slow.is_err());
        bounds.set(1, None);
        let freed = tokio::time::timeout(Duration::from_secs(20), reading).await;
        assert_eq!(freed.unwrap().unwrap(), 3 * BURST_MIN as usize);
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
