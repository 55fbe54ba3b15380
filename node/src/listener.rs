//! The one port of a node: clients and peers come in here, and say hello.
//!
//! Owns the handshake of whoever was dialled: who may stay, who is refused and how strangers are
//! turned away. Each connection is one task, which reads and writes. The greeting itself is the
//! driver's, which knows the leader; refusals that need no such knowledge are sent here.
//! Next: `engine::wire::client` for the conversation, `dialer` for the other end of a peer's.

use crate::config::NodeConfig;
use crate::connection::{Admitted, ConnectionError, ConnectionId, FrameReader, Inbound, InboxRoom};
use crate::error::NodeError;
use crate::log_limit::LogLimit;
use crate::outbound::Outbound;
use bytes::BytesMut;
use engine::ids::NodeId;
use engine::record::ChecksumSeed;
use engine::storage::Identity;
use engine::time::Micros;
use engine::wire::client::{
    Caller, Greeting, Hello, PEER_ADDRESS_BYTES_MAX, Refusal, read_client_frame,
};
use engine::wire::peer::read_message;
use engine::wire::{self, TailCheck};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// A caller that has not said hello by then is dropped.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest hello or greeting, bytes. A greeting names every member.
pub(crate) const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// Connections that have not said hello yet; further ones wait in the system's queue.
const HANDSHAKES_MAX: usize = 256;
/// Bytes from clients, and again from nodes, that may wait for the driver; then connections stop
/// reading.
const INBOX_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Pause after the system refused a connection, which it does when it is out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Begins to listen.
pub(crate) async fn bind(address: &str) -> Result<TcpListener, NodeError> {
    TcpListener::bind(address).await.map_err(|error| {
        let address = address.to_owned();
        match error.kind() {
            io::ErrorKind::AddrInUse => NodeError::AddressInUse { address },
            _ => NodeError::Listen { address, error },
        }
    })
}

/// What every connection's task needs.
#[derive(Debug)]
struct Shared {
    identity: Identity,
    checksum_seed: ChecksumSeed,
    outbound_bytes_max: usize,
    inbox: mpsc::Sender<Inbound>,
    client_room: InboxRoom,
    /// Its own, so that no flood of clients keeps the nodes from hearing each other.
    peer_room: InboxRoom,
    started: Instant,
    log_limit: Mutex<LogLimit>,
}

/// Accepts connections for ever.
pub(crate) async fn accept_all(
    listener: TcpListener,
    config: &NodeConfig,
    inbox: mpsc::Sender<Inbound>,
) {
    let identity = config.identity.clone();
    let shared = Arc::new(Shared {
        checksum_seed: ChecksumSeed::of(identity.cluster, identity.group),
        identity,
        outbound_bytes_max: config.connection_outbound_bytes_max,
        inbox,
        client_room: InboxRoom::new(INBOX_BYTES_MAX),
        peer_room: InboxRoom::new(INBOX_BYTES_MAX),
        started: Instant::now(),
        log_limit: Mutex::default(),
    });
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let mut next_connection = ConnectionId(1);
    loop {
        let permit = handshakes.clone().acquire_owned().await.expect("never closed");
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                shared.warn(format_args!("cannot accept a connection: {error}"));
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let connection = next_connection;
        next_connection = ConnectionId(connection.0 + 1);
        let shared = shared.clone();
        tokio::spawn(async move {
            if let Err(error) = shared.serve(connection, stream, address, permit).await {
                shared.warn(format_args!("closed the connection from {address}: {error}"));
            }
        });
    }
}

/// Who called, as far as it concerns the connection's task.
enum Admission {
    Client,
    Peer { from: NodeId, address: String },
}

impl Shared {
    fn warn(&self, what: std::fmt::Arguments<'_>) {
        let elapsed = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut limit = self.log_limit.lock().expect("nothing panics while it holds this lock");
        match limit.admit(Micros(elapsed)) {
            Some(0) => tracing::warn!("{what}"),
            Some(suppressed) => tracing::warn!(suppressed, "{what}"),
            None => {}
        }
    }

    async fn serve(
        &self,
        connection: ConnectionId,
        stream: TcpStream,
        address: SocketAddr,
        handshake_permit: impl Send,
    ) -> Result<(), ConnectionError> {
        stream.set_nodelay(true)?;
        let (reader, mut writer) = tokio::io::split(stream);
        let mut reader = FrameReader::new(reader);
        let Some(hello) = read_hello(&mut reader).await? else { return Ok(()) };
        let (protocol, admission) = match admit(&self.identity, &hello) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                self.warn(format_args!("refused the connection from {address}: {refusal}"));
                return refuse(&mut writer, refusal).await;
            }
        };
        drop(handshake_permit);
        let (caller, peer) = match admission {
            Admission::Client => (Admitted::Client { address, protocol }, None),
            Admission::Peer { from, address } => {
                (Admitted::Peer { from, address, protocol }, Some(from))
            }
        };
        let outbound = Arc::new(Outbound::open(self.outbound_bytes_max));
        let opened = Inbound::Opened { connection, caller, outbound: outbound.clone() };
        // The inbox closes when the node stops; then there is nobody to serve.
        if self.inbox.send(opened).await.is_err() {
            return Ok(());
        }
        let read = async {
            match peer {
                None => self.read_calls(connection, &mut reader).await,
                Some(from) => self.read_messages(from, &mut reader).await,
            }
        };
        let ended = tokio::select! {
            biased;
            () = outbound.is_cut() => Ok(()),
            () = self.inbox.closed() => Ok(()),
            ended = read => ended,
            ended = outbound.write_to(&mut writer) => ended.map_err(ConnectionError::from),
        };
        outbound.close();
        if peer.is_none() {
            let _ = self.inbox.send(Inbound::Closed { connection }).await;
        }
        ended.or_else(|error| if is_usual(&error) { Ok(()) } else { Err(error) })
    }

    async fn read_calls(
        &self,
        connection: ConnectionId,
        reader: &mut FrameReader<impl AsyncRead + Unpin>,
    ) -> Result<(), ConnectionError> {
        let mut frames = Vec::new();
        while reader.next_frames(&mut frames).await? {
            let room = self.client_room.take(&frames).await;
            let calls: Result<Vec<_>, _> = frames
                .drain(..)
                .map(|frame| read_client_frame(&frame).map(|call| (call, frame.tail)))
                .collect();
            let calls = Inbound::Calls { connection, calls: calls?, room };
            if self.inbox.send(calls).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn read_messages(
        &self,
        from: NodeId,
        reader: &mut FrameReader<impl AsyncRead + Unpin>,
    ) -> Result<(), ConnectionError> {
        let mut frames = Vec::new();
        while reader.next_frames(&mut frames).await? {
            let room = self.peer_room.take(&frames).await;
            let messages: Result<Vec<_>, _> = frames
                .drain(..)
                .map(|frame| read_message(self.checksum_seed, self.identity.group, &frame))
                .collect();
            let messages = Inbound::Messages { from, messages: messages?, room };
            if self.inbox.send(messages).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

async fn read_hello(
    reader: &mut FrameReader<impl AsyncRead + Unpin>,
) -> Result<Option<Hello>, ConnectionError> {
    let frame = tokio::time::timeout(HANDSHAKE_TIMEOUT, reader.first_frame(HANDSHAKE_BYTES_MAX))
        .await
        .map_err(|_| ConnectionError::Silent { millis: HANDSHAKE_TIMEOUT.as_millis() })??;
    Ok(match frame {
        Some(frame) => Some(wire::decode("a hello", &frame.head)?),
        None => None,
    })
}

/// The protocol to speak and the role of the caller, or why it may not stay. Whether a peer is a
/// member is not asked: this node's log may not say so yet, and one that was removed must be told.
fn admit(identity: &Identity, hello: &Hello) -> Result<(u16, Admission), Refusal> {
    let protocol = hello
        .common_protocol()
        .ok_or(Refusal::Protocol { min: wire::PROTOCOL_MIN, max: wire::PROTOCOL_MAX })?;
    let right_cluster = |wanted| {
        let here = identity.cluster;
        if wanted == here { Ok(()) } else { Err(Refusal::WrongCluster { here, wanted }) }
    };
    match &hello.caller {
        Caller::Client { cluster } => {
            cluster.map_or(Ok(()), right_cluster)?;
            Ok((protocol, Admission::Client))
        }
        Caller::Peer { cluster, group, from, to, address } => {
            right_cluster(*cluster)?;
            if *to != identity.node {
                return Err(Refusal::WrongNode { here: identity.node, wanted: *to });
            }
            let is_other = *group == identity.group && *from != identity.node;
            if !is_other || *from == NodeId::ZERO || address.len() > PEER_ADDRESS_BYTES_MAX {
                return Err(Refusal::NotAMember { caller: *from, cluster: *cluster });
            }
            Ok((protocol, Admission::Peer { from: *from, address: address.clone() }))
        }
    }
}

async fn refuse(
    writer: &mut (impl AsyncWrite + Unpin),
    refusal: Refusal,
) -> Result<(), ConnectionError> {
    let mut bytes = BytesMut::new();
    wire::write_frame(&mut bytes, &Greeting::Refused(refusal), &[], TailCheck::Frame);
    writer.write_all(&bytes).await?;
    writer.flush().await?;
    Ok(())
}

/// How connections end every day: the other side went away.
fn is_usual(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::Io(error) => matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::ConnectionAborted
        ),
        ConnectionError::Wire(_)
        | ConnectionError::LongHello { .. }
        | ConnectionError::Silent { .. } => false,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail")]
mod tests {
    use super::*;
    use engine::ids::{ClusterId, GroupId};

    const CLUSTER: ClusterId = ClusterId([1; 16]);
    const OTHER_CLUSTER: ClusterId = ClusterId([2; 16]);

    fn identity() -> Identity {
        let members = (1..=3).map(|node| (NodeId(node), format!("10.0.0.{node}:7100"))).collect();
        Identity::founder(CLUSTER, GroupId(0), NodeId(2), members)
    }

    fn refusal_of(caller: Caller) -> Option<Refusal> {
        admit(&identity(), &Hello::new(caller)).err()
    }

    fn peer(cluster: ClusterId, from: u64, to: u64) -> Caller {
        let (from, to, address) = (NodeId(from), NodeId(to), "10.0.0.9:7100".to_owned());
        Caller::Peer { cluster, group: GroupId(0), from, to, address }
    }

    #[test]
    fn clients_of_this_cluster_or_of_any_may_stay_and_others_may_not() {
        assert_eq!(refusal_of(Caller::Client { cluster: None }), None);
        assert_eq!(refusal_of(Caller::Client { cluster: Some(CLUSTER) }), None);
        assert_eq!(
            refusal_of(Caller::Client { cluster: Some(OTHER_CLUSTER) }),
            Some(Refusal::WrongCluster { here: CLUSTER, wanted: OTHER_CLUSTER })
        );
    }

    #[test]
    fn a_peer_must_be_another_node_of_this_cluster_and_mean_this_one() {
        assert_eq!(refusal_of(peer(CLUSTER, 1, 2)), None);
        assert_eq!(refusal_of(peer(CLUSTER, 4, 2)), None, "this log may lag behind");
        assert_eq!(
            refusal_of(peer(OTHER_CLUSTER, 1, 2)),
            Some(Refusal::WrongCluster { here: CLUSTER, wanted: OTHER_CLUSTER })
        );
        assert_eq!(
            refusal_of(peer(CLUSTER, 1, 3)),
            Some(Refusal::WrongNode { here: NodeId(2), wanted: NodeId(3) })
        );
        for caller in [0, 2] {
            assert_eq!(
                refusal_of(peer(CLUSTER, caller, 2)),
                Some(Refusal::NotAMember { caller: NodeId(caller), cluster: CLUSTER })
            );
        }
        let (from, to) = (NodeId(1), NodeId(2));
        let wrong_group =
            Caller::Peer { cluster: CLUSTER, group: GroupId(1), from, to, address: String::new() };
        let long_address = Caller::Peer {
            cluster: CLUSTER,
            group: GroupId(0),
            from,
            to,
            address: "a".repeat(PEER_ADDRESS_BYTES_MAX + 1),
        };
        for caller in [wrong_group, long_address] {
            let expected = Refusal::NotAMember { caller: from, cluster: CLUSTER };
            assert_eq!(refusal_of(caller), Some(expected));
        }
    }

    #[test]
    fn a_caller_without_a_common_protocol_is_told_the_range() {
        let mut hello = Hello::new(Caller::Client { cluster: None });
        hello.protocol_min = wire::PROTOCOL_MAX + 1;
        hello.protocol_max = wire::PROTOCOL_MAX + 2;
        let expected = Refusal::Protocol { min: wire::PROTOCOL_MIN, max: wire::PROTOCOL_MAX };
        assert_eq!(admit(&identity(), &hello).err(), Some(expected));
    }
}
