//! The conversation between a client and a node.
//!
//! A client says [`Hello`], the node says [`Welcome`] or closes with a reason; then calls go one way
//! and responses the other, matched by number and in any order, and the node pushes the list of
//! nodes whenever it changes. Next: `client` (the crate) and `node::server` for the two ends.

use super::{Frame, MAGIC, PROTOCOL_MAX, PROTOCOL_MIN, TailCheck, WireError, decode, write_frame};
use crate::api::{BackupAnswer, BackupRequest, CommandError, Rejection, Response, Room};
use crate::hlc::Hlc;
use crate::ids::{ClusterId, GroupId, LogIndex, NodeId, SessionId, Term};
use crate::limits;
use crate::queue::Reply;
use crate::raft::{ChangeRequest, FollowerStatus, Membership};
use crate::time::Micros;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use bincode::{Decode, Encode};
use bytes::{Bytes, BytesMut};

/// The first frame on every connection, from whoever opened it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: u32,
    /// Oldest protocol that the caller speaks.
    pub protocol_min: u16,
    /// Newest.
    pub protocol_max: u16,
    /// What the caller is.
    pub caller: Caller,
}

/// Longest address in a hello, bytes: a host name has at most 253, a port five and a colon.
pub const PEER_ADDRESS_BYTES_MAX: usize = 300;

/// Who opens a connection.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Caller {
    /// A client, with the cluster that it expects, if it does.
    Client {
        /// `None`: whichever it is.
        cluster: Option<ClusterId>,
    },
    /// Another node. All of this must fit, or it is refused.
    Peer {
        /// Its cluster.
        cluster: ClusterId,
        /// Its group.
        group: GroupId,
        /// Itself.
        from: NodeId,
        /// Whom it believes to call.
        to: NodeId,
        /// Where the caller is reached, `host:port`: whoever is called may not know it as a member
        /// yet, or no more, and still owe it an answer. At most [`PEER_ADDRESS_BYTES_MAX`] bytes.
        address: String,
    },
}

impl Hello {
    /// The hello of this build.
    #[must_use]
    pub fn new(caller: Caller) -> Self {
        Self { magic: MAGIC, protocol_min: PROTOCOL_MIN, protocol_max: PROTOCOL_MAX, caller }
    }

    /// The newest protocol that both sides speak.
    #[must_use]
    pub fn common_protocol(&self) -> Option<u16> {
        let newest = self.protocol_max.min(PROTOCOL_MAX);
        (self.magic == MAGIC && newest >= self.protocol_min.max(PROTOCOL_MIN)).then_some(newest)
    }
}

/// The answer to a hello.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Greeting {
    /// Go on.
    Welcome(Welcome),
    /// The connection will be closed.
    Refused(Refusal),
}

/// Who answers.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Welcome {
    /// The protocol spoken from here on.
    pub protocol: u16,
    /// The node's cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The nodes as this one sees them.
    pub view: ClusterView,
}

/// Why a connection is refused.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// No protocol in common.
    #[error("this node speaks protocols {min} to {max}; upgrade whichever is older")]
    Protocol {
        /// Oldest spoken here.
        min: u16,
        /// Newest spoken here.
        max: u16,
    },
    /// Another cluster.
    #[error("this node belongs to cluster {here}, the caller wants {wanted}; check the address")]
    WrongCluster {
        /// The node's.
        here: ClusterId,
        /// The caller's.
        wanted: ClusterId,
    },
    /// Another node.
    #[error("this is node {here}, the caller wants node {wanted}; check the address list")]
    WrongNode {
        /// Who is here.
        here: NodeId,
        /// Who was wanted.
        wanted: NodeId,
    },
    /// A peer of another group, with this node's own number or without a proper address.
    #[error(
        "node {caller} cannot be a member of cluster {cluster} beside this node; check its data directory"
    )]
    NotAMember {
        /// Who calls.
        caller: NodeId,
        /// The cluster.
        cluster: ClusterId,
    },
    /// Too many connections.
    #[error("this node serves {max} connections already; close some or ask another node")]
    Full {
        /// The bound.
        max: u64,
    },
}

/// From client to node.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum ClientFrame {
    /// A request; `request` is the client's number for it. The tail is the block or the query.
    Call {
        /// Unique among the unanswered ones of this connection.
        request: u64,
        /// What kind.
        call: Call,
    },
    /// Are you there? Answered by a pong with the same number.
    Ping(u64),
}

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Call {
    /// Tail: a block.
    Propose,
    /// Tail: a query.
    Query,
    /// Tail: a query; answered when it can be satisfied or after the timeout.
    Watch {
        /// At most.
        timeout: Micros,
    },
    /// Tail: a query; answered by whichever node is asked, as new as the leader's answer would be.
    QueryHere,
    /// Tail: a query; answered at once by whichever node is asked, with how old the answer is.
    QueryStale,
    /// Change the membership. No tail.
    Change(ChangeRequest),
    /// Hand leadership over. No tail.
    Transfer {
        /// To whom; `None`: to the best.
        to: Option<NodeId>,
    },
    /// How is the node? No tail; served by every node from its own knowledge.
    Status,
    /// The next step of a backup. No tail; served by every node from its own disk.
    Backup(BackupRequest),
}

/// From node to client.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
pub enum ServerFrame {
    /// The answer to a call. The tail is its bodies, one after another.
    Response {
        /// The call's number.
        request: u64,
        /// The answer.
        answer: Answer,
        /// The length of each body in the tail.
        body_lens: Vec<u32>,
    },
    /// The answer to [`Call::Status`].
    Status {
        /// The call's number.
        request: u64,
        /// How the node is.
        status: Box<NodeStatus>,
    },
    /// The nodes, pushed whenever something about them changes.
    View(ClusterView),
    /// The answer to a ping.
    Pong(u64),
}

/// A [`Response`] of the queue machine without its bodies.
#[derive(Clone, PartialEq, Debug, Encode, Decode)]
#[allow(missing_docs, reason = "the same as in `api::Response`, variant by variant")]
pub enum Answer {
    Applied { index: LogIndex, results: Vec<Result<Reply, CommandError>> },
    SessionOpened(SessionId),
    SessionClosed,
    Answer { at: LogIndex, reply: Reply },
    Invalid { command: u32, reply: Reply },
    TooLarge { bytes: u64, max: u64 },
    Stale { at: LogIndex, log_time: Hlc, reply: Reply },
    Changed { index: LogIndex, membership: Box<Membership> },
    Transferred { leader: NodeId },
    Ready,
    TimedOut,
    Rejected(Rejection),
    Unknown { leader: Option<NodeId> },
    Backup(BackupAnswer),
    BodyMissing { entry: LogIndex, is_lost: bool },
}

/// The nodes of a cluster as one of them sees them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct ClusterView {
    /// The leader, if the node knows one.
    pub leader: Option<NodeId>,
    /// The node's term: of two views the one with the higher term is newer.
    pub term: Term,
    /// The entry that made the list of members: within a term, the higher one is newer.
    pub membership_index: LogIndex,
    /// Every member.
    pub nodes: Vec<NodeView>,
}

/// A node as another sees it.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct NodeView {
    /// Which.
    pub node: NodeId,
    /// Where clients and peers reach it, `host:port`.
    pub address: String,
    /// How it does.
    pub health: Health,
}

/// How a node does, as seen from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Health {
    /// The node that says so itself.
    Itself,
    /// Heard from recently.
    Reachable,
    /// Not heard from for an election timeout or more.
    Unreachable,
}

/// How a node is.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct NodeStatus {
    /// Which.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// `follower`, `pre-candidate`, `candidate` or `leader`.
    pub role: String,
    /// Its term.
    pub term: Term,
    /// The leader it knows.
    pub leader: Option<NodeId>,
    /// First entry it has.
    pub first_index: LogIndex,
    /// Last entry it has.
    pub last_index: LogIndex,
    /// Last entry that is durable here.
    pub durable_index: LogIndex,
    /// Last entry known to be committed.
    pub commit_index: LogIndex,
    /// Last entry applied.
    pub applied_index: LogIndex,
    /// Stamp of the last applied entry.
    pub log_time: u64,
    /// Messages waiting or leased, over all queues.
    pub messages: u64,
    /// Queues.
    pub queues: u64,
    /// Open sessions.
    pub sessions: u64,
    /// Segment files.
    pub segments: u64,
    /// Bytes in them.
    pub log_bytes: u64,
    /// The newest membership in its log.
    pub membership: Membership,
    /// The entry that made it; 0 for the founding one.
    pub membership_index: LogIndex,
    /// Whether it was removed from the cluster.
    pub is_removed: bool,
    /// Whether its disk, its clock and its state machine keep up and it lacks nothing, so that it may lead.
    pub is_fit: bool,
    /// Entries that it lacks and gets from the others.
    pub missing: u64,
    /// Entries that its state refers to and no member has any more.
    pub lost: u64,
    /// The last entry in its newest snapshot; 0 if it has none.
    pub snapshot_index: LogIndex,
    /// On a leader: each other member.
    pub followers: Vec<FollowerStatus>,
    /// On a leader: to whom it is handing over.
    pub transfer: Option<NodeId>,
    /// Its priority among those that may lead.
    pub priority: u8,
    /// Since the process started.
    pub uptime: Micros,
    /// The build.
    pub version: String,
    /// Disk space, on this node and in the cluster.
    pub room: Room,
}

/// Splits a machine's response into what goes into a frame's head and its tail.
#[must_use]
pub fn split_response(response: Response<Reply>) -> (Answer, Vec<Bytes>) {
    match response {
        Response::Applied { index, results, bodies } => {
            (Answer::Applied { index, results }, bodies)
        }
        Response::SessionOpened(session) => (Answer::SessionOpened(session), Vec::new()),
        Response::SessionClosed => (Answer::SessionClosed, Vec::new()),
        Response::Answer { at, reply, bodies } => (Answer::Answer { at, reply }, bodies),
        Response::Stale { at, log_time, reply, bodies } => {
            (Answer::Stale { at, log_time, reply }, bodies)
        }
        Response::Changed { index, membership } => {
            (Answer::Changed { index, membership }, Vec::new())
        }
        Response::Transferred { leader } => (Answer::Transferred { leader }, Vec::new()),
        Response::Invalid { command, reply } => (Answer::Invalid { command, reply }, Vec::new()),
        Response::TooLarge { bytes, max } => (Answer::TooLarge { bytes, max }, Vec::new()),
        Response::Backup { answer, bodies } => (Answer::Backup(answer), bodies),
        Response::BodyMissing { entry, is_lost } => {
            (Answer::BodyMissing { entry, is_lost }, Vec::new())
        }
        Response::Ready => (Answer::Ready, Vec::new()),
        Response::TimedOut => (Answer::TimedOut, Vec::new()),
        Response::Rejected(rejection) => (Answer::Rejected(rejection), Vec::new()),
        Response::Unknown { leader } => (Answer::Unknown { leader }, Vec::new()),
    }
}

/// Joins a head and its bodies again.
#[must_use]
pub fn join_response(answer: Answer, bodies: Vec<Bytes>) -> Response<Reply> {
    match answer {
        Answer::Applied { index, results } => Response::Applied { index, results, bodies },
        Answer::SessionOpened(session) => Response::SessionOpened(session),
        Answer::SessionClosed => Response::SessionClosed,
        Answer::Answer { at, reply } => Response::Answer { at, reply, bodies },
        Answer::Stale { at, log_time, reply } => Response::Stale { at, log_time, reply, bodies },
        Answer::Changed { index, membership } => Response::Changed { index, membership },
        Answer::Transferred { leader } => Response::Transferred { leader },
        Answer::Invalid { command, reply } => Response::Invalid { command, reply },
        Answer::TooLarge { bytes, max } => Response::TooLarge { bytes, max },
        Answer::Backup(answer) => Response::Backup { answer, bodies },
        Answer::BodyMissing { entry, is_lost } => Response::BodyMissing { entry, is_lost },
        Answer::Ready => Response::Ready,
        Answer::TimedOut => Response::TimedOut,
        Answer::Rejected(rejection) => Response::Rejected(rejection),
        Answer::Unknown { leader } => Response::Unknown { leader },
    }
}

/// Appends a node's answer to a call. One whose head outgrows a frame is replaced by the news of
/// that: the replies of many commands in one block can.
pub fn write_response(out: &mut BytesMut, request: u64, response: Response<Reply>) {
    let (answer, bodies) = split_response(response);
    let body_lens = bodies.iter().map(|body| u32::try_from(body.len()).expect("limits")).collect();
    let start = out.len();
    let frame = ServerFrame::Response { request, answer, body_lens };
    write_frame(out, &frame, &bodies, TailCheck::Frame);
    let head_bytes = u32::from_le_bytes(out[start..start + 4].try_into().expect("4 bytes"));
    if head_bytes as usize > limits::FRAME_HEAD_BYTES_MAX {
        out.truncate(start);
        let (bytes, max) = (u64::from(head_bytes), limits::FRAME_HEAD_BYTES_MAX as u64);
        let answer = Answer::TooLarge { bytes, max };
        let frame = ServerFrame::Response { request, answer, body_lens: Vec::new() };
        write_frame(out, &frame, &[], TailCheck::Frame);
    }
}

/// Appends a frame without a tail, or with one whose bytes are `tail`.
pub fn write_client_frame(out: &mut BytesMut, frame: &ClientFrame, tail: &[Bytes]) {
    write_frame(out, frame, tail, TailCheck::Frame);
}

/// Decodes what a client sent.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_client_frame(frame: &Frame) -> Result<ClientFrame, WireError> {
    decode("a client frame", &frame.head)
}

/// Decodes what a node sent, with the bodies of a response.
///
/// # Errors
/// What is wrong with the bytes.
pub fn read_server_frame(frame: &Frame) -> Result<(ServerFrame, Vec<Bytes>), WireError> {
    let server_frame: ServerFrame = decode("a server frame", &frame.head)?;
    let mut bodies = Vec::new();
    if let ServerFrame::Response { body_lens, .. } = &server_frame {
        let mut tail = frame.tail.clone();
        for len in body_lens {
            let len = *len as usize;
            if len > tail.len() {
                let reason = alloc::format!("a body of {len} bytes where {} are left", tail.len());
                return Err(WireError::Tail { bytes: frame.tail.len(), reason });
            }
            bodies.push(tail.split_to(len));
        }
        if !tail.is_empty() {
            let reason = alloc::format!("{} bytes after the last body", tail.len());
            return Err(WireError::Tail { bytes: frame.tail.len(), reason });
        }
    }
    Ok((server_frame, bodies))
}
