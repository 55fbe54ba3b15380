//! The connection to one other node: made, greeted, written to, and made again.
//!
//! A node sends on the connections that it dials and receives on those that it accepts, so whoever
//! dials learns of the end of a connection by reading it. Messages for a node that is not
//! connected are dropped; Raft repeats what matters. Next: `listener` for the other end.

use crate::connection::{ConnectionError, FrameReader, Inbound};
use crate::listener::{HANDSHAKE_BYTES_MAX, HANDSHAKE_TIMEOUT};
use crate::peers::Callee;
use crate::task::AbortOnDrop;
use bytes::BytesMut;
use engine::ids::{GroupId, NodeId};
use engine::storage::Identity;
use engine::wire::client::{Caller, Greeting, Hello, Refusal, Welcome};
use engine::wire::{self, TailCheck};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// What it takes to call other nodes.
#[derive(Debug)]
pub(crate) struct Dialling {
    pub(crate) identity: Identity,
    pub(crate) inbox: mpsc::Sender<Inbound>,
    pub(crate) seed: u64,
}

impl Dialling {
    /// Calls a node for as long as the task is kept.
    pub(crate) fn start(&self, callee: Callee) -> AbortOnDrop {
        let dialer = Dialer {
            identity: self.identity.clone(),
            inbox: self.inbox.clone(),
            seed: seed_for(self.seed, self.identity.group, callee.node),
            callee,
        };
        AbortOnDrop(tokio::spawn(dialer.run()))
    }
}

#[derive(Debug)]
struct Dialer {
    identity: Identity,
    callee: Callee,
    inbox: mpsc::Sender<Inbound>,
    seed: u64,
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("{0}")]
    Connection(#[from] ConnectionError),
    #[error("no connection within {} ms", CONNECT_TIMEOUT.as_millis())]
    Timeout,
    #[error("it closed the connection instead of greeting")]
    NoGreeting,
    #[error("it refused: {0}")]
    Refused(Refusal),
    #[error("node {node} of cluster {cluster} answered; check the member addresses")]
    Stranger { node: NodeId, cluster: engine::ids::ClusterId },
}

impl From<std::io::Error> for DialError {
    fn from(error: std::io::Error) -> Self {
        Self::Connection(ConnectionError::Io(error))
    }
}

impl Dialer {
    /// Calls for ever.
    async fn run(self) {
        let (to, address) = (self.callee.node, &self.callee.address);
        let mut pause = Pause::new(self.seed);
        // One line when it begins to fail, one for each new reason, and none for every attempt.
        let mut last_failure = None;
        loop {
            match self.connect().await {
                Ok(stream) => {
                    tracing::info!(peer = to.0, address, "connected");
                    pause.reset();
                    last_failure = None;
                    if !self.serve(stream).await {
                        return;
                    }
                    tracing::info!(peer = to.0, address, "disconnected");
                }
                Err(error) => {
                    let failure = Some(error.to_string());
                    if failure != last_failure {
                        tracing::warn!("cannot reach node {to} at {address}: {error}; trying on");
                        last_failure = failure;
                    }
                }
            }
            tokio::time::sleep(pause.next()).await;
        }
    }

    async fn connect(&self) -> Result<TcpStream, DialError> {
        let connecting = TcpStream::connect(self.callee.address.as_str());
        let mut stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| DialError::Timeout)??;
        stream.set_nodelay(true)?;
        tokio::time::timeout(HANDSHAKE_TIMEOUT, self.shake_hands(&mut stream)).await.map_err(
            |_| DialError::from(ConnectionError::Silent { millis: HANDSHAKE_TIMEOUT.as_millis() }),
        )??;
        Ok(stream)
    }

    async fn shake_hands(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    ) -> Result<(), DialError> {
        let Identity { cluster, group, node, .. } = self.identity;
        let address = self.identity.address.clone();
        let to = self.callee.node;
        let mut bytes = BytesMut::new();
        let caller = Caller::Peer { cluster, group, from: node, to, address };
        wire::write_frame(&mut bytes, &Hello::new(caller), &[], TailCheck::Frame);
        stream.write_all(&bytes).await?;
        stream.flush().await?;
        let mut reader = FrameReader::new(stream);
        let frame = reader.first_frame(HANDSHAKE_BYTES_MAX).await?.ok_or(DialError::NoGreeting)?;
        let greeting = wire::decode("a greeting", &frame.head).map_err(ConnectionError::from)?;
        match greeting {
            Greeting::Refused(refusal) => Err(DialError::Refused(refusal)),
            Greeting::Welcome(Welcome { cluster: theirs, node, .. }) => {
                if (theirs, node) == (cluster, to) {
                    Ok(())
                } else {
                    Err(DialError::Stranger { node, cluster: theirs })
                }
            }
        }
    }

    /// Sends what the driver appends until the connection is gone; `false` when the node stops.
    async fn serve(&self, stream: TcpStream) -> bool {
        let Callee { dialer, node: to, ref outbound, .. } = self.callee;
        let up = |is_up| Inbound::Dialled { dialer, to, is_up };
        outbound.reopen();
        if self.inbox.send(up(true)).await.is_err() {
            return false;
        }
        let (mut reader, writer) = tokio::io::split(stream);
        tokio::select! {
            biased;
            () = outbound.is_cut() => {}
            () = self.inbox.closed() => {}
            () = wait_for_end(&mut reader) => {}
            _ = outbound.write_to(writer) => {}
        }
        outbound.close();
        self.inbox.send(up(false)).await.is_ok()
    }
}

/// Nothing is said on this side of the connection, so whatever can be read is its end.
async fn wait_for_end(reader: &mut (impl AsyncRead + Unpin)) {
    use tokio::io::AsyncReadExt;
    let mut byte = [0; 1];
    let _ = reader.read(&mut byte).await;
}

/// How long to wait before the next attempt: doubling, jittered so that members which start together
/// do not stay in step, from 10 ms to 500 ms.
#[derive(Debug)]
struct Pause {
    next: Duration,
    rng: Xoshiro256PlusPlus,
}

impl Pause {
    fn new(seed: u64) -> Self {
        Self { next: PAUSE_MIN, rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    fn reset(&mut self) {
        self.next = PAUSE_MIN;
    }

    fn next(&mut self) -> Duration {
        let longest = self.next;
        self.next = (longest * 2).min(PAUSE_MAX);
        longest.mul_f64(self.rng.random_range(0.5..=1.0))
    }
}

/// The seed of the dialer of `to`, so that no two nodes' dialers draw alike.
fn seed_for(seed: u64, group: GroupId, to: NodeId) -> u64 {
    seed ^ (to.0.wrapping_add(1)).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(group.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_begin_again_after_a_success() {
        let mut pause = Pause::new(1);
        let mut longest = PAUSE_MIN;
        for _ in 0..20 {
            let drawn = pause.next();
            assert!(drawn <= longest && drawn >= longest / 2, "{drawn:?} of {longest:?}");
            longest = (longest * 2).min(PAUSE_MAX);
        }
        assert_eq!(longest, PAUSE_MAX);
        pause.reset();
        assert!(pause.next() <= PAUSE_MIN);
    }

    #[test]
    fn the_same_seed_draws_the_same_pauses() {
        let draw = |seed| {
            let mut pause = Pause::new(seed);
            [pause.next(), pause.next(), pause.next()]
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
    }
}
