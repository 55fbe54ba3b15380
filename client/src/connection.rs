//! One connection to a node: handshake, frames in, frames out.
//!
//! Owns the stream and its two buffers. Never waits: everything but [`dial`] is polled by the one
//! task that owns all connections, so a batch costs one read and one write. Never retries; an error
//! ends the connection. Next: `peers` for who dials again and when.

use bytes::{Buf, Bytes, BytesMut};
use engine::ids::ClusterId;
use engine::wire::client::{Caller, ClientFrame, Greeting, Hello, Welcome, write_client_frame};
use engine::wire::{self, Frame, TailCheck};
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes that one read asks for at least.
const READ_BYTES: usize = 256 * 1024;
/// Reads before other connections and callers get their turn.
const READS_PER_TURN: usize = 8;
/// An outbound buffer that grew beyond this is given back once it is empty.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A connection after its handshake.
#[derive(Debug)]
pub(crate) struct Connection<S = TcpStream> {
    stream: S,
    inbound: BytesMut,
    outbound: BytesMut,
    is_flushed: bool,
}

/// Connects and shakes hands.
///
/// # Errors
/// What went wrong, in words.
pub(crate) async fn dial(
    address: String,
    cluster: Option<ClusterId>,
) -> Result<(Connection, Welcome), String> {
    let stream = TcpStream::connect(address.as_str())
        .await
        .map_err(|error| format!("cannot connect: {error}"))?;
    // Small frames must not wait for the acknowledgement of earlier ones.
    stream.set_nodelay(true).map_err(|error| format!("cannot set up the socket: {error}"))?;
    greet(stream, cluster).await
}

/// Shakes hands on an open stream.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    cluster: Option<ClusterId>,
) -> Result<(Connection<S>, Welcome), String> {
    let broken = |error: io::Error| format!("handshake failed: {error}");
    let mut outbound = BytesMut::new();
    let hello = Hello::new(Caller::Client { cluster });
    wire::write_frame(&mut outbound, &hello, &[], TailCheck::Frame);
    stream.write_all(&outbound).await.map_err(broken)?;
    stream.flush().await.map_err(broken)?;
    outbound.clear();

    let mut inbound = BytesMut::new();
    let frame = loop {
        if let Some(frame) = wire::take_frame(&mut inbound).map_err(|error| error.to_string())? {
            break frame;
        }
        if stream.read_buf(&mut inbound).await.map_err(broken)? == 0 {
            return Err("closed during the handshake".to_owned());
        }
    };
    match wire::decode("a greeting", &frame.head).map_err(|error| error.to_string())? {
        Greeting::Welcome(welcome) => {
            Ok((Connection { stream, inbound, outbound, is_flushed: true }, welcome))
        }
        Greeting::Refused(refusal) => Err(refusal.to_string()),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Queues a frame.
    pub(crate) fn write(&mut self, frame: &ClientFrame, tail: &[Bytes]) {
        write_client_frame(&mut self.outbound, frame, tail);
    }

    /// Bytes that wait to be written.
    pub(crate) fn outbound_bytes(&self) -> usize {
        self.outbound.len()
    }

    /// Reads what has come, up to a turn's share, and appends the whole frames to `frames`.
    ///
    /// # Errors
    /// The connection is over; the frames before that are in `frames`.
    pub(crate) fn poll_frames(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut Vec<Frame>,
    ) -> Result<(), String> {
        for _ in 0..READS_PER_TURN {
            while let Some(frame) =
                wire::take_frame(&mut self.inbound).map_err(|error| error.to_string())?
            {
                frames.push(frame);
            }
            self.inbound.reserve(wire::missing_bytes(&self.inbound).max(READ_BYTES));
            let read = pin!(self.stream.read_buf(&mut self.inbound)).poll(cx);
            match read {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => return Err("closed by the node".to_owned()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(format!("cannot read: {error}")),
            }
        }
        while let Some(frame) =
            wire::take_frame(&mut self.inbound).map_err(|error| error.to_string())?
        {
            frames.push(frame);
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    /// Writes and flushes as much as the stream takes.
    ///
    /// # Errors
    /// The connection is over.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        let failed = |error: io::Error| format!("cannot write: {error}");
        while !self.outbound.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outbound) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(0)) => {
                    return Err("cannot write: the stream takes nothing".to_owned());
                }
                Poll::Ready(Ok(written)) => self.outbound.advance(written),
                Poll::Ready(Err(error)) => return Err(failed(error)),
            }
            self.is_flushed = false;
        }
        if self.is_flushed {
            return Ok(());
        }
        if self.outbound.capacity() > KEPT_BYTES_MAX {
            self.outbound = BytesMut::new();
        }
        if let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(cx) {
            flushed.map_err(failed)?;
            self.is_flushed = true;
        }
        Ok(())
    }
}
