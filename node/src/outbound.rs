//! What waits to be written to one connection: everything of a turn goes out in one write.
//!
//! Shared between the driver, which appends and never waits, and the connection's task, which writes.
//! Bounded: who appends past the bound is told so, and decides. Next: `connection` for the writing.

use bytes::BytesMut;
use std::sync::{Mutex, MutexGuard};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

/// A buffer that once grew beyond this is given back to the allocator after it has been written.
const KEPT_BUFFER_BYTES: usize = 1024 * 1024;

/// The queue of bytes towards one connection.
#[derive(Debug)]
pub(crate) struct Outbound {
    pending: Mutex<Pending>,
    bytes_max: usize,
    /// There is something to write, or to finish.
    ready: Notify,
    /// The connection is to be dropped at once.
    cut: Notify,
}

#[derive(Debug)]
struct Pending {
    bytes: BytesMut,
    /// Handed to the socket and not yet taken by it.
    writing: usize,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No connection: what is appended is dropped.
    Closed,
    Open,
    /// What is there is still written, then the connection ends.
    Finishing,
}

/// The bound is reached; nothing was appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Overflow {
    /// Bytes that wait already.
    pub(crate) waiting: usize,
}

impl Outbound {
    /// Towards a connection that stands.
    pub(crate) fn open(bytes_max: usize) -> Self {
        Self::new(bytes_max, State::Open)
    }

    /// Towards a connection that is still to be made, and may be made again and again.
    pub(crate) fn closed(bytes_max: usize) -> Self {
        Self::new(bytes_max, State::Closed)
    }

    fn new(bytes_max: usize, state: State) -> Self {
        let pending = Mutex::new(Pending { bytes: BytesMut::new(), writing: 0, state });
        Self { pending, bytes_max, ready: Notify::new(), cut: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().expect("nothing panics while it holds this lock")
    }

    /// Appends what `write` writes, unless the bound is reached before it; one frame may exceed it.
    /// Without a connection the bytes are dropped, which is what a lost message is.
    pub(crate) fn append(&self, write: impl FnOnce(&mut BytesMut)) -> Result<(), Overflow> {
        let mut pending = self.lock();
        if pending.state != State::Open {
            return Ok(());
        }
        let waiting = pending.bytes.len() + pending.writing;
        if waiting >= self.bytes_max {
            return Err(Overflow { waiting });
        }
        write(&mut pending.bytes);
        drop(pending);
        self.ready.notify_one();
        Ok(())
    }

    /// A connection was made: starts empty.
    pub(crate) fn reopen(&self) {
        let mut pending = self.lock();
        assert!(pending.state == State::Closed, "one connection at a time");
        *pending = Pending { bytes: BytesMut::new(), writing: 0, state: State::Open };
    }

    /// The connection is gone, and what waited with it.
    pub(crate) fn close(&self) {
        let mut pending = self.lock();
        *pending = Pending { bytes: BytesMut::new(), writing: 0, state: State::Closed };
    }

    /// Whether there is a connection.
    #[cfg(test)]
    pub(crate) fn is_open(&self) -> bool {
        self.lock().state == State::Open
    }

    /// Ends the connection once everything so far is written.
    pub(crate) fn finish(&self) {
        let mut pending = self.lock();
        if pending.state == State::Open {
            pending.state = State::Finishing;
        }
        drop(pending);
        self.ready.notify_one();
    }

    /// Ends the connection now; see [`is_cut`](Self::is_cut).
    pub(crate) fn cut(&self) {
        self.close();
        self.cut.notify_one();
    }

    /// Completes when the connection is to be dropped.
    pub(crate) async fn is_cut(&self) {
        self.cut.notified().await;
    }

    /// Takes all that waits; `None` when the connection is to end. `written` is an empty buffer
    /// whose memory is used again.
    async fn take(&self, written: BytesMut) -> Option<BytesMut> {
        let mut written = Some(written);
        loop {
            {
                let mut pending = self.lock();
                pending.writing = 0;
                if !pending.bytes.is_empty() {
                    let empty = written.take().unwrap_or_default();
                    let bytes = core::mem::replace(&mut pending.bytes, empty);
                    pending.writing = bytes.len();
                    return Some(bytes);
                }
                if pending.state != State::Open {
                    return None;
                }
            }
            self.ready.notified().await;
        }
    }

    /// Writes what is appended, as it is appended, until the connection is to end.
    pub(crate) async fn write_to(
        &self,
        mut stream: impl AsyncWrite + Unpin,
    ) -> std::io::Result<()> {
        let mut written = BytesMut::new();
        while let Some(mut bytes) = self.take(written).await {
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            bytes.clear();
            written = if bytes.capacity() > KEPT_BUFFER_BYTES { BytesMut::new() } else { bytes };
        }
        Ok(())
    }
}

#[cfg(all(test, not(feature = "sim")))]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn what_is_appended_before_the_writer_runs_goes_out_in_one_write() {
        let outbound = Outbound::open(1_000);
        outbound.append(|bytes| bytes.extend_from_slice(b"one")).unwrap();
        outbound.append(|bytes| bytes.extend_from_slice(b"two")).unwrap();
        outbound.finish();
        let bytes = runtime().block_on(outbound.take(BytesMut::new()));
        assert_eq!(bytes.as_deref(), Some(b"onetwo".as_slice()));
        assert_eq!(runtime().block_on(outbound.take(BytesMut::new())), None);
    }

    #[test]
    fn bytes_being_written_count_towards_the_bound() {
        let outbound = Outbound::open(4);
        outbound.append(|bytes| bytes.extend_from_slice(b"abcd")).unwrap();
        let taken = runtime().block_on(outbound.take(BytesMut::new()));
        assert!(taken.is_some());
        assert_eq!(outbound.append(|_| ()), Err(Overflow { waiting: 4 }));
    }

    #[test]
    fn nothing_waits_while_there_is_no_connection_or_after_a_cut() {
        let outbound = Outbound::closed(1_000);
        outbound.append(|bytes| bytes.extend_from_slice(b"lost")).unwrap();
        outbound.reopen();
        outbound.append(|bytes| bytes.extend_from_slice(b"kept")).unwrap();
        let bytes = runtime().block_on(outbound.take(BytesMut::new()));
        assert_eq!(bytes.as_deref(), Some(b"kept".as_slice()));
        outbound.append(|bytes| bytes.extend_from_slice(b"late")).unwrap();
        outbound.cut();
        assert_eq!(runtime().block_on(outbound.take(BytesMut::new())), None);
    }

    #[test]
    fn a_writer_hands_every_byte_over_in_order() {
        runtime().block_on(async {
            let (near, mut far) = tokio::io::duplex(3);
            let outbound = Outbound::open(1_000);
            outbound.append(|bytes| bytes.extend_from_slice(b"in pieces")).unwrap();
            outbound.finish();
            let mut read = Vec::new();
            let reading = tokio::io::AsyncReadExt::read_to_end(&mut far, &mut read);
            let (written, _) = tokio::join!(outbound.write_to(near), reading);
            written.unwrap();
            assert_eq!(read, b"in pieces");
        });
    }
}
