//! Frames off a connection, and the events that connections send to the driver.
//!
//! Reads as much as there is with one call, hands over all whole frames of it at once, and waits
//! while the driver is behind: a full inbox holds back the socket. Never interprets a request.
//! Next: `driver` for what becomes of the events.

use crate::outbound::Outbound;
use crate::peers::DialerId;
use bytes::{Bytes, BytesMut};
use engine::ids::NodeId;
use engine::raft::Message;
use engine::wire::client::ClientFrame;
use engine::wire::{self, Frame, WireError};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes asked of the socket at first, and as long as it does not fill them.
const READ_BYTES_MIN: usize = 8 * 1024;
/// Bytes asked of the socket on a busy connection. A longer frame grows its buffer as it comes in, so
/// that memory follows bytes received and never a length that somebody merely claims.
const READ_BYTES_MAX: usize = 64 * 1024;
/// The room below which a new buffer is taken. Frames share the buffer's memory, so taking one
/// earlier would let a small record keep a large buffer alive.
const READ_ROOM_MIN: usize = 2 * 1024;

/// A connection, numbered as it was accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct ConnectionId(pub(crate) u64);

/// What connections tell the driver.
#[derive(Debug)]
pub(crate) enum Inbound {
    /// Somebody came with a valid hello; the driver sends the greeting.
    Opened { connection: ConnectionId, caller: Admitted, outbound: Arc<Outbound> },
    /// Frames of a client.
    Calls { connection: ConnectionId, calls: Vec<(ClientFrame, Bytes)>, room: TakenRoom },
    /// The client is gone.
    Closed { connection: ConnectionId },
    /// Messages of another node.
    Messages { from: NodeId, messages: Vec<Message>, room: TakenRoom },
    /// The connection that a dialer of this node made stands, or is gone.
    Dialled { dialer: DialerId, to: NodeId, is_up: bool },
}

/// Bytes that may wait for the driver, over all connections of a kind. Whoever brings more waits, and
/// with it its socket: so however many connections there are, what they bring is bounded.
#[derive(Debug)]
pub(crate) struct InboxRoom {
    kilobytes: Arc<Semaphore>,
    kilobytes_max: u32,
}

/// Room that is free again when this is dropped.
#[derive(Debug)]
pub(crate) struct TakenRoom {
    _permit: OwnedSemaphorePermit,
}

impl InboxRoom {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let kilobytes_max = u32::try_from(bytes_max / 1024).expect("less than 4 TiB");
        Self { kilobytes: Arc::new(Semaphore::new(kilobytes_max as usize)), kilobytes_max }
    }

    /// Waits for room for `frames`. A single batch that exceeds it all gets all of it.
    pub(crate) async fn take(&self, frames: &[Frame]) -> TakenRoom {
        let bytes: usize = frames.iter().map(|frame| frame.head.len() + frame.tail.len()).sum();
        let wanted = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let wanted = wanted.min(self.kilobytes_max);
        let permit = self.kilobytes.clone().acquire_many_owned(wanted).await;
        TakenRoom { _permit: permit.expect("never closed") }
    }
}

/// Who came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Admitted {
    /// A client, from where, speaking which protocol.
    Client { address: SocketAddr, protocol: u16 },
    /// Another node, and where it says that it can be called back.
    Peer { from: NodeId, address: String, protocol: u16 },
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectionError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("the first frame has more than {max} bytes; the caller does not speak this protocol")]
    LongHello { max: usize },
    #[error("no handshake within {millis} ms")]
    Silent { millis: u128 },
}

/// Takes frames off a stream.
#[derive(Debug)]
pub(crate) struct FrameReader<S> {
    stream: S,
    buffer: BytesMut,
    read_bytes: usize,
}

impl<S: AsyncRead + Unpin> FrameReader<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, buffer: BytesMut::new(), read_bytes: READ_BYTES_MIN }
    }

    /// Reads once; `false` at the end of the stream.
    async fn fill(&mut self) -> Result<bool, ConnectionError> {
        let missing = wire::missing_bytes(&self.buffer);
        let room = self.buffer.capacity() - self.buffer.len();
        if room < READ_ROOM_MIN.max(missing) {
            // Doubling: a long frame is copied once on average, whatever its length.
            let wanted = missing.min(self.buffer.len()).max(self.read_bytes);
            self.buffer.reserve(wanted);
        }
        let room = self.buffer.capacity() - self.buffer.len();
        let count = self.stream.read_buf(&mut self.buffer).await?;
        if count == room && self.read_bytes < READ_BYTES_MAX {
            self.read_bytes *= 2;
        }
        Ok(count > 0)
    }

    /// Waits for at least one whole frame and appends every whole frame at hand; `false` when the
    /// stream has ended.
    pub(crate) async fn next_frames(
        &mut self,
        frames: &mut Vec<Frame>,
    ) -> Result<bool, ConnectionError> {
        loop {
            while let Some(frame) = wire::take_frame(&mut self.buffer)? {
                frames.push(frame);
            }
            if !frames.is_empty() {
                return Ok(true);
            }
            if !self.fill().await? {
                return Ok(false);
            }
        }
    }

    /// Waits for the first frame, which is short; `None` when the stream ends before it.
    pub(crate) async fn first_frame(
        &mut self,
        bytes_max: usize,
    ) -> Result<Option<Frame>, ConnectionError> {
        loop {
            // A caller may send its first calls along with its hello; those stay in the buffer.
            if let Some(frame) = wire::take_frame(&mut self.buffer)? {
                return Ok(Some(frame));
            }
            if self.buffer.len() + wire::missing_bytes(&self.buffer) > bytes_max {
                return Err(ConnectionError::LongHello { max: bytes_max });
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }
}

#[cfg(all(test, not(feature = "sim")))]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use engine::wire::TailCheck;
    use engine::wire::client::write_client_frame;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::ReadBuf;

    /// Gives its bytes in pieces of at most `piece`.
    struct Pieces {
        bytes: Bytes,
        piece: usize,
    }

    impl AsyncRead for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let count = self.piece.min(self.bytes.len()).min(into.remaining());
            into.put_slice(&self.bytes.split_to(count));
            Poll::Ready(Ok(()))
        }
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    #[test]
    fn what_waits_for_the_driver_is_bounded_by_its_bytes() {
        block_on(async {
            let frame = |bytes| Frame { head: Bytes::new(), tail: Bytes::from(vec![0; bytes]) };
            let room = InboxRoom::new(10 * 1024);
            let first = room.take(&[frame(3_000), frame(3_000)]).await;
            let second = room.take(&[frame(4_000)]).await;
            let small = [frame(1)];
            let mut third = std::pin::pin!(room.take(&small));
            let poll = poll_once(third.as_mut());
            assert!(poll.is_pending(), "ten kilobytes are taken");
            drop(second);
            assert!(poll_once(third.as_mut()).is_ready());
            drop(first);
            // More than there is: it waits for all, and comes through.
            let all = room.take(&[frame(100_000)]).await;
            assert!(poll_once(std::pin::pin!(room.take(&small))).is_pending());
            drop(all);
        });
    }

    fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(std::task::Waker::noop()))
    }

    fn three_frames() -> (Bytes, Vec<usize>) {
        let mut bytes = BytesMut::new();
        let tails = [0_usize, 300, 200_000];
        for tail in tails {
            let tail = Bytes::from(vec![7_u8; tail]);
            write_client_frame(&mut bytes, &ClientFrame::Ping(tail.len() as u64), &[tail]);
        }
        (bytes.freeze(), tails.to_vec())
    }

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let (bytes, tails) = three_frames();
        for piece in [1, 2, 23, 24, 25, 4_095, 8_192, 8_193, 65_536, 1_000_000] {
            let mut reader = FrameReader::new(Pieces { bytes: bytes.clone(), piece });
            let mut frames = Vec::new();
            let mut seen = Vec::new();
            while block_on(reader.next_frames(&mut frames)).unwrap() {
                seen.extend(frames.drain(..).map(|frame| frame.tail.len()));
            }
            assert_eq!(seen, tails, "in pieces of {piece}");
        }
    }

    #[test]
    fn a_claimed_length_reserves_no_memory_before_bytes_come() {
        let mut bytes = BytesMut::new();
        let tail = Bytes::from(vec![0; 10 * 1024 * 1024]);
        wire::write_frame(&mut bytes, &0_u8, &[tail], TailCheck::Records);
        let head = bytes.freeze().slice(..100);
        let mut reader = FrameReader::new(Pieces { bytes: head, piece: 100 });
        assert!(!block_on(reader.next_frames(&mut Vec::new())).unwrap());
        assert!(reader.buffer.capacity() < 64 * 1024, "{}", reader.buffer.capacity());
    }

    #[test]
    fn a_stranger_is_recognised_by_its_first_bytes() {
        let bytes = Bytes::from_static(b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n");
        let mut reader = FrameReader::new(Pieces { bytes, piece: 1_000 });
        assert!(block_on(reader.first_frame(4_096)).is_err());
    }

    #[test]
    fn frames_behind_the_first_one_are_kept() {
        let (bytes, tails) = three_frames();
        let mut reader = FrameReader::new(Pieces { bytes, piece: 1_000_000 });
        block_on(reader.first_frame(4_096)).unwrap().unwrap();
        let mut frames = Vec::new();
        let mut seen = Vec::new();
        while block_on(reader.next_frames(&mut frames)).unwrap() {
            seen.extend(frames.drain(..).map(|frame| frame.tail.len()));
        }
        assert_eq!(seen, tails[1..]);
    }
}
