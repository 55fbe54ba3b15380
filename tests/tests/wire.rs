//! Bytes between processes: what is written reads back the same, however the bytes are cut on the
//! way, and no bytes at all make a reader panic or take what was not written.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use bytes::{Bytes, BytesMut};
use engine::api::{
    BackupAnswer, BackupRequest, Bounded, CommandError, Rejection, Response, Room, Shortage,
    TransferError,
};
use engine::block::{Block, BlockBuilder, BlockKind};
use engine::hlc::Hlc;
use engine::ids::{
    ClusterId, GroupId, LeaseToken, LogIndex, MessageId, NodeId, Position, Sequence, SessionId,
    Term,
};
use engine::queue::{Browsed, Delivered, Invalid, QueueInfo, Receipt, Reply, Retention, Sent};
use engine::raft::{
    AppendOutcome, Body, Change, ChangeError, ChangeRequest, Claim, FlowStatus, FollowerStatus,
    Leave, LogPosition, Membership, Message as PeerMessage, SnapshotMeta, Standing, Step,
};
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::time::Micros;
use engine::wire::client::{
    Call, Caller, ClientFrame, ClusterView, Greeting, Health, Hello, NodeStatus, NodeView, Refusal,
    ServerFrame, Welcome, join_response, read_client_frame, read_server_frame, write_client_frame,
    write_response,
};
use engine::wire::peer::{read_message, write_message};
use engine::wire::{
    self, FRAME_HEADER_BYTES, Frame, TailCheck, decode, missing_bytes, take_frame, write_frame,
};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

const GROUP: GroupId = GroupId(0);
const CLUSTER: ClusterId = ClusterId([7; 16]);

fn seed() -> ChecksumSeed {
    ChecksumSeed::of(CLUSTER, GROUP)
}

prop_compose! {
    fn node()(id in any::<u64>()) -> NodeId { NodeId(id) }
}
prop_compose! {
    fn term()(term in any::<u64>()) -> Term { Term(term) }
}
prop_compose! {
    fn index()(index in any::<u64>()) -> LogIndex { LogIndex(index) }
}
prop_compose! {
    fn hlc()(stamp in any::<u64>()) -> Hlc { Hlc(stamp) }
}
prop_compose! {
    fn cluster()(bytes in any::<[u8; 16]>()) -> ClusterId { ClusterId(bytes) }
}
prop_compose! {
    fn id()(bytes in any::<[u8; 16]>()) -> MessageId { MessageId(bytes) }
}
prop_compose! {
    fn position()(index in index(), offset in any::<u32>()) -> Position { Position { index, offset } }
}
prop_compose! {
    fn receipt()(position in position(), term in term(), stamp in hlc()) -> Receipt {
        Receipt { position, term, stamp }
    }
}
prop_compose! {
    fn sent()(receipt in receipt(), duplicate in any::<bool>()) -> Sent { Sent { receipt, duplicate } }
}
prop_compose! {
    fn delivered()(position in position(), len in any::<u32>(), attempt in any::<u32>()) -> Delivered {
        Delivered { position, len, attempt }
    }
}
prop_compose! {
    fn browsed()(
        receipt in receipt(),
        len in any::<u32>(),
        attempts in any::<u32>(),
        unavailable_until in option::of(hlc()),
    ) -> Browsed {
        Browsed { receipt, len, attempts, unavailable_until }
    }
}
prop_compose! {
    fn queue_info()(name in ".{0,40}", counts in any::<[u64; 4]>(), totals in any::<(u64, u64)>(),
        limits in any::<[Option<u64>; 3]>()) -> QueueInfo {
        let [available, leased, delayed, sent_total] = counts;
        let retention =
            Retention { max_age_millis: limits[0], max_bytes: limits[1], max_messages: limits[2] };
        let (bytes, dropped_total) = totals;
        QueueInfo { name, available, leased, delayed, sent_total, bytes, dropped_total, retention }
    }
}

fn invalid() -> impl Strategy<Value = Invalid> {
    let numbers = any::<(u64, u64)>();
    prop_oneof![
        Just(Invalid::Undecodable),
        any::<u64>().prop_map(|bytes| Invalid::QueueName { bytes }),
        any::<u64>().prop_map(|bytes| Invalid::SenderName { bytes }),
        (id(), numbers).prop_map(|(id, (bytes, max))| Invalid::Body { id, bytes, max }),
        id().prop_map(|id| Invalid::Headers { id }),
        numbers.prop_map(|(count, max)| Invalid::Count { count, max }),
        numbers.prop_map(|(millis, max)| Invalid::Span { millis, max }),
    ]
}

fn reply() -> impl Strategy<Value = Reply> {
    prop_oneof![
        sent().prop_map(Reply::SentOne),
        vec(sent(), 0..4).prop_map(Reply::SentMany),
        (any::<u64>(), hlc(), vec(delivered(), 0..4)).prop_map(|(token, until, deliveries)| {
            Reply::Received { token: LeaseToken(token), until, deliveries }
        }),
        vec(any::<bool>(), 0..9).prop_map(Reply::Settled),
        vec(any::<bool>(), 0..9).prop_map(Reply::Deleted),
        any::<u64>().prop_map(Reply::Purged),
        option::of(browsed()).prop_map(Reply::Got),
        vec(browsed(), 0..4).prop_map(Reply::Browsed),
        vec(queue_info(), 0..4).prop_map(Reply::Queues),
        any::<bool>().prop_map(Reply::Available),
        invalid().prop_map(Reply::Invalid),
        Just(Reply::Configured),
    ]
}

fn command_error() -> impl Strategy<Value = CommandError> {
    prop_oneof![
        Just(CommandError::SessionExpired),
        any::<u64>().prop_map(|next| CommandError::SequenceGap { expected: Sequence(next) }),
        Just(CommandError::ReplyForgotten),
    ]
}

fn rejection() -> impl Strategy<Value = Rejection> {
    let what = prop_oneof![Just(Bounded::UncommittedBytes), Just(Bounded::WaitingRequests)];
    prop_oneof![
        option::of(node()).prop_map(|leader| Rejection::NotLeader { leader }),
        (what, any::<u64>(), any::<u64>()).prop_map(|(what, used, max)| Rejection::Full {
            what,
            used,
            max
        }),
        ".{0,40}".prop_map(|reason| Rejection::Malformed { reason }),
        Just(Rejection::ShuttingDown),
        shortage().prop_map(Rejection::NoSpace),
        node().prop_map(|to| Rejection::Transferring { to }),
        node().prop_map(|to| Rejection::Transfer(TransferError::TimedOut { to })),
        (node(), any::<u64>(), any::<u64>()).prop_map(|(node, matched, last)| {
            Rejection::Change(ChangeError::NotCaughtUp { node, matched, last })
        }),
    ]
}

fn bodies() -> impl Strategy<Value = Vec<Bytes>> {
    vec(vec(any::<u8>(), 0..100).prop_map(Bytes::from), 0..4)
}

fn response() -> impl Strategy<Value = Response<Reply>> {
    let result = prop_oneof![
        3 => reply().prop_map(Ok),
        1 => command_error().prop_map(Err),
    ];
    prop_oneof![
        (index(), vec(result, 0..5), bodies())
            .prop_map(|(index, results, bodies)| Response::Applied { index, results, bodies }),
        any::<u64>().prop_map(|session| Response::SessionOpened(SessionId(session))),
        Just(Response::SessionClosed),
        (index(), reply(), bodies()).prop_map(|(at, reply, bodies)| Response::Answer {
            at,
            reply,
            bodies
        }),
        (any::<u32>(), reply()).prop_map(|(command, reply)| Response::Invalid { command, reply }),
        (any::<u64>(), any::<u64>()).prop_map(|(bytes, max)| Response::TooLarge { bytes, max }),
        (index(), hlc(), reply(), bodies()).prop_map(|(at, log_time, reply, bodies)| {
            Response::Stale { at, log_time, reply, bodies }
        }),
        (index(), membership()).prop_map(|(index, membership)| Response::Changed {
            index,
            membership: Box::new(membership)
        }),
        node().prop_map(|leader| Response::Transferred { leader }),
        (backup_answer(), bodies())
            .prop_map(|(answer, bodies)| Response::Backup { answer, bodies }),
        (index(), any::<bool>())
            .prop_map(|(entry, is_lost)| Response::BodyMissing { entry, is_lost }),
        Just(Response::Ready),
        Just(Response::TimedOut),
        rejection().prop_map(Response::Rejected),
        option::of(node()).prop_map(|leader| Response::Unknown { leader }),
    ]
}

fn view() -> impl Strategy<Value = ClusterView> {
    let health =
        prop_oneof![Just(Health::Itself), Just(Health::Reachable), Just(Health::Unreachable)];
    let member = (node(), ".{0,30}", health);
    let member = member.prop_map(|(node, address, health)| NodeView { node, address, health });
    (option::of(node()), term(), index(), vec(member, 0..8)).prop_map(
        |(leader, term, membership_index, nodes)| ClusterView {
            leader,
            term,
            membership_index,
            nodes,
        },
    )
}

fn hello() -> impl Strategy<Value = Hello> {
    let caller = prop_oneof![
        option::of(cluster()).prop_map(|cluster| Caller::Client { cluster }),
        (cluster(), any::<u32>(), node(), node(), ".{0,40}").prop_map(
            |(cluster, group, from, to, address)| {
                Caller::Peer { cluster, group: GroupId(group), from, to, address }
            }
        ),
    ];
    (any::<u32>(), any::<u16>(), any::<u16>(), caller).prop_map(
        |(magic, protocol_min, protocol_max, caller)| Hello {
            magic,
            protocol_min,
            protocol_max,
            caller,
        },
    )
}

fn greeting() -> impl Strategy<Value = Greeting> {
    let refusal = prop_oneof![
        any::<(u16, u16)>().prop_map(|(min, max)| Refusal::Protocol { min, max }),
        (cluster(), cluster()).prop_map(|(here, wanted)| Refusal::WrongCluster { here, wanted }),
        (node(), node()).prop_map(|(here, wanted)| Refusal::WrongNode { here, wanted }),
        (node(), cluster()).prop_map(|(caller, cluster)| Refusal::NotAMember { caller, cluster }),
        any::<u64>().prop_map(|max| Refusal::Full { max }),
    ];
    let welcome = (any::<u16>(), cluster(), node(), view())
        .prop_map(|(protocol, cluster, node, view)| Welcome { protocol, cluster, node, view });
    prop_oneof![welcome.prop_map(Greeting::Welcome), refusal.prop_map(Greeting::Refused)]
}

fn change_request() -> impl Strategy<Value = ChangeRequest> {
    let add = (".{0,30}", option::of(any::<[u8; 16]>()), any::<bool>());
    let step = prop_oneof![
        add.prop_map(|(address, claim, is_joining)| {
            Step::Add { address, claim: claim.map(Claim), is_joining }
        }),
        node().prop_map(Step::Promote),
        node().prop_map(Step::Demote),
        node().prop_map(Step::Remove),
    ];
    let leave = prop_oneof![Just(Leave::Automatic), Just(Leave::Explicit)];
    let change = (vec(step, 0..4), leave).prop_map(|(steps, leave)| Change { steps, leave });
    prop_oneof![
        change.prop_map(ChangeRequest::Change),
        Just(ChangeRequest::Leave),
        Just(ChangeRequest::Cancel),
    ]
}

fn backup_request() -> impl Strategy<Value = BackupRequest> {
    prop_oneof![
        (any::<u64>(), index())
            .prop_map(|(backup, at_least)| BackupRequest::Begin { backup, at_least }),
        any::<(u64, u64, u32)>().prop_map(|(backup, offset, len)| BackupRequest::State {
            backup,
            offset,
            len
        }),
        (any::<u64>(), vec(index(), 0..8))
            .prop_map(|(backup, indices)| BackupRequest::Records { backup, indices }),
        any::<u64>().prop_map(|backup| BackupRequest::End { backup }),
    ]
}

fn backup_answer() -> impl Strategy<Value = BackupAnswer> {
    prop_oneof![
        index().prop_map(|applied| BackupAnswer::Preparing { applied }),
        Just(BackupAnswer::State),
        Just(BackupAnswer::Records),
        index().prop_map(|index| BackupAnswer::Absent { index }),
        Just(BackupAnswer::Ended),
        Just(BackupAnswer::Gone),
        any::<u64>().prop_map(|left| BackupAnswer::Busy { left: Micros(left) }),
    ]
}

fn client_frame() -> impl Strategy<Value = ClientFrame> {
    let call = prop_oneof![
        Just(Call::Propose),
        Just(Call::Query),
        any::<u64>().prop_map(|timeout| Call::Watch { timeout: Micros(timeout) }),
        Just(Call::Status),
        Just(Call::QueryHere),
        Just(Call::QueryStale),
        option::of(node()).prop_map(|to| Call::Transfer { to }),
        change_request().prop_map(Call::Change),
        backup_request().prop_map(Call::Backup),
    ];
    prop_oneof![
        (any::<u64>(), call).prop_map(|(request, call)| ClientFrame::Call { request, call }),
        any::<u64>().prop_map(ClientFrame::Ping),
    ]
}

fn flow() -> impl Strategy<Value = FlowStatus> {
    prop_oneof![
        Just(FlowStatus::Probe),
        Just(FlowStatus::Replicate),
        any::<(u64, u64)>().prop_map(|(received, total)| FlowStatus::Snapshot { received, total }),
    ]
}

fn shortage() -> impl Strategy<Value = Shortage> {
    (vec(node(), 0..5), any::<u32>()).prop_map(|(short, voters)| Shortage { short, voters })
}

fn room() -> impl Strategy<Value = Room> {
    let all = (option::of(any::<u64>()), any::<(u64, bool)>(), option::of(shortage()));
    all.prop_map(|(free_bytes, (reserve_bytes, is_short), shortage)| Room {
        free_bytes,
        reserve_bytes,
        is_short,
        shortage,
    })
}

fn status() -> impl Strategy<Value = NodeStatus> {
    let names = (node(), cluster(), ".{0,20}", ".{0,20}", option::of(node()));
    let follower = (node(), index(), index(), flow(), any::<u64>(), standing()).prop_map(
        |(node, match_index, next_index, flow, responded_at, standing)| FollowerStatus {
            node,
            match_index,
            next_index,
            flow,
            responded_at: Micros(responded_at),
            is_fit: standing.is_fit,
            priority: standing.priority,
            is_complete: standing.is_complete,
            is_short: standing.is_short,
        },
    );
    let more = (
        membership(),
        index(),
        any::<[bool; 2]>(),
        index(),
        option::of(node()),
        any::<u8>(),
        room(),
    );
    let all = (names, any::<[u64; 15]>(), vec(follower, 0..7), more);
    all.prop_map(|(names, numbers, followers, more)| {
        let (node, cluster, role, version, leader) = names;
        let (membership, membership_index, is, snapshot_index, transfer, priority, room) = more;
        let [is_removed, is_fit] = is;
        let [term, first, last, durable, commit, applied, rest @ ..] = numbers;
        let [log_time, messages, queues, sessions, segments, log_bytes, rest @ ..] = rest;
        let [uptime, missing, lost] = rest;
        NodeStatus {
            node,
            cluster,
            role,
            term: Term(term),
            leader,
            first_index: LogIndex(first),
            last_index: LogIndex(last),
            durable_index: LogIndex(durable),
            commit_index: LogIndex(commit),
            applied_index: LogIndex(applied),
            log_time,
            messages,
            queues,
            sessions,
            segments,
            log_bytes,
            membership,
            membership_index,
            is_removed,
            is_fit,
            missing,
            lost,
            snapshot_index,
            followers,
            transfer,
            priority,
            uptime: Micros(uptime),
            version,
            room,
        }
    })
}

prop_compose! {
    fn log_position()(term in term(), index in index()) -> LogPosition { LogPosition { term, index } }
}
prop_compose! {
    fn record()(
        kind in prop_oneof![Just(EntryKind::Noop), Just(EntryKind::Commands), Just(EntryKind::Tick)],
        payload in vec(any::<u8>(), 0..200),
        index in index(),
        term in term(),
        hlc in hlc(),
    ) -> Record {
        let mut builder = RecordBuilder::with_capacity(payload.len());
        builder.payload_mut().extend_from_slice(&payload);
        builder.seal(seed(), GROUP, index, term, hlc, kind)
    }
}

fn standing() -> impl Strategy<Value = Standing> {
    any::<(u8, [bool; 3])>().prop_map(|(priority, is)| Standing {
        priority,
        is_fit: is[0],
        is_complete: is[1],
        is_short: is[2],
    })
}

fn membership() -> impl Strategy<Value = Membership> {
    let voters = vec((1_u64..100).prop_map(NodeId), 1..7);
    (voters.clone(), voters, any::<bool>()).prop_map(|(voters, outgoing, is_joint)| {
        if is_joint { Membership::joint(voters, outgoing) } else { Membership::new(voters) }
    })
}

fn snapshot_piece() -> impl Strategy<Value = Body> {
    let runs = vec((index(), term()), 0..5);
    let places = (log_position(), log_position(), hlc(), runs);
    let numbers = any::<[u64; 4]>();
    (places, index(), membership(), numbers, vec(any::<u8>(), 0..200)).prop_map(
        |((last, base, stamp, term_runs), index, membership, numbers, chunk)| {
            let [round, offset, bytes, checksum] = numbers;
            let membership = (index, membership);
            let meta = SnapshotMeta { last, stamp, base, term_runs, membership, bytes, checksum };
            Body::Snapshot { round, meta: Box::new(meta), offset, chunk: Bytes::from(chunk) }
        },
    )
}

/// Rising.
fn indices() -> impl Strategy<Value = Vec<LogIndex>> {
    btree_set(index(), 0..5).prop_map(|indices| indices.into_iter().collect())
}

fn peer_message() -> impl Strategy<Value = PeerMessage> {
    let append = (log_position(), index(), any::<u64>(), vec(record(), 0..4)).prop_map(
        |(previous, commit, round, records)| Body::Append { previous, commit, round, records },
    );
    let outcome = prop_oneof![
        index().prop_map(|match_index| AppendOutcome::Matched { match_index }),
        (index(), log_position())
            .prop_map(|(previous_index, hint)| AppendOutcome::Rejected { previous_index, hint }),
        Just(AppendOutcome::StaleTerm),
        index().prop_map(|at_least| AppendOutcome::WantsSnapshot { at_least }),
        (index(), log_position())
            .prop_map(|(previous_index, hint)| AppendOutcome::Lost { previous_index, hint }),
    ];
    let body = prop_oneof![
        log_position().prop_map(|last| Body::PreVoteRequest { last }),
        any::<bool>().prop_map(|granted| Body::PreVoteResponse { granted }),
        (log_position(), any::<bool>())
            .prop_map(|(last, is_transfer)| Body::VoteRequest { last, is_transfer }),
        any::<bool>().prop_map(|granted| Body::VoteResponse { granted }),
        append,
        (any::<u64>(), standing(), outcome).prop_map(|(round, standing, outcome)| {
            Body::AppendResponse { round, standing, outcome }
        }),
        snapshot_piece(),
        (any::<u64>(), standing(), log_position(), any::<u64>()).prop_map(
            |(round, standing, last, next_offset)| Body::SnapshotResponse {
                round,
                standing,
                last,
                next_offset
            }
        ),
        Just(Body::TimeoutNow),
        any::<u64>().prop_map(|id| Body::ReadRequest { id }),
        (any::<u64>(), index()).prop_map(|(id, index)| Body::ReadResponse { id, index }),
        index().prop_map(|membership_index| Body::Removed { membership_index }),
        indices().prop_map(|indices| Body::RecordsRequest { indices }),
        (vec(record(), 0..4), indices(), index())
            .prop_map(|(records, absent, applied)| Body::Records { records, absent, applied }),
        log_position().prop_map(|matched| Body::OlderCopy { matched }),
    ];
    (term(), body).prop_map(|(term, body)| PeerMessage { term, body })
}

/// Anything that can be in a connection, as the frames that carry it.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let written = |write: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    };
    prop_oneof![
        hello().prop_map(move |hello| {
            written(&|out| write_frame(out, &hello, &[], TailCheck::Frame))
        }),
        greeting().prop_map(move |greeting| {
            written(&|out| write_frame(out, &greeting, &[], TailCheck::Frame))
        }),
        (client_frame(), bodies()).prop_map(move |(frame, tail)| {
            written(&|out| write_client_frame(out, &frame, &tail))
        }),
        (any::<u64>(), response()).prop_map(move |(request, response)| {
            written(&|out| write_response(out, request, response.clone()))
        }),
        peer_message().prop_map(move |message| written(&|out| write_message(out, GROUP, &message))),
    ]
}

/// The one frame that `write` makes.
fn framed(write: impl FnOnce(&mut BytesMut)) -> Frame {
    let mut out = BytesMut::new();
    write(&mut out);
    let frame = take_frame(&mut out).unwrap().unwrap();
    assert!(out.is_empty());
    frame
}

/// Tries every reader of the two conversations; none may panic.
fn read_as_anything(frame: &Frame) {
    let _hello: Result<Hello, _> = decode("a hello", &frame.head);
    let _greeting: Result<Greeting, _> = decode("a greeting", &frame.head);
    let _client = read_client_frame(frame);
    let _server = read_server_frame(frame);
    let _peer = read_message(seed(), GROUP, frame);
    let _block = Block::parse(&frame.tail).map(|block| block.commands().count());
}

proptest! {
    #[test]
    fn handshakes_read_back_as_they_were_written(hello in hello(), greeting in greeting()) {
        let frame = framed(|out| write_frame(out, &hello, &[], TailCheck::Frame));
        prop_assert_eq!(decode::<Hello>("a hello", &frame.head).unwrap(), hello);
        let frame = framed(|out| write_frame(out, &greeting, &[], TailCheck::Frame));
        prop_assert_eq!(decode::<Greeting>("a greeting", &frame.head).unwrap(), greeting);
    }

    #[test]
    fn calls_read_back_as_they_were_written(sent in client_frame(), tail in bodies()) {
        let frame = framed(|out| write_client_frame(out, &sent, &tail));
        prop_assert_eq!(read_client_frame(&frame).unwrap(), sent);
        prop_assert_eq!(frame.tail, tail.concat());
    }

    #[test]
    fn responses_read_back_with_their_bodies(request in any::<u64>(), sent in response()) {
        let frame = framed(|out| write_response(out, request, sent.clone()));
        let (read, bodies) = read_server_frame(&frame).unwrap();
        let ServerFrame::Response { request: read_request, answer, .. } = read else {
            panic!("{read:?} is no response");
        };
        prop_assert_eq!(read_request, request);
        prop_assert_eq!(join_response(answer, bodies), sent);
    }

    #[test]
    fn what_a_node_tells_unasked_reads_back(view in view(), status in status(), number in any::<u64>()) {
        let told = [
            ServerFrame::View(view),
            ServerFrame::Status { request: number, status: Box::new(status) },
            ServerFrame::Pong(number),
        ];
        for sent in told {
            let frame = framed(|out| write_frame(out, &sent, &[], TailCheck::Frame));
            prop_assert_eq!(read_server_frame(&frame).unwrap(), (sent, Vec::new()));
        }
    }

    #[test]
    fn messages_between_nodes_read_back_with_their_records(sent in peer_message()) {
        let frame = framed(|out| write_message(out, GROUP, &sent));
        prop_assert_eq!(read_message(seed(), GROUP, &frame).unwrap(), sent);
    }

    #[test]
    fn blocks_read_back_command_by_command(
        session in 1_u64..,
        first in 1_u64..u64::MAX / 2,
        below in any::<u64>(),
        commands in vec(vec(any::<u8>(), 0..60), 1..20),
    ) {
        let (session, first, below) = (SessionId(session), Sequence(first), Sequence(below));
        let mut builder = BlockBuilder::commands(session, first, below);
        commands.iter().for_each(|command| builder.push(command));
        let bytes = builder.finish();
        let block = Block::parse(&bytes).unwrap();
        prop_assert_eq!((block.kind, block.session), (BlockKind::Commands, session));
        prop_assert_eq!((block.first_sequence, block.acked_below), (first, below));
        let read: Vec<Vec<u8>> = block.commands().map(|(_, command)| command.to_vec()).collect();
        prop_assert_eq!(read, commands);
        for (offset, command) in block.commands() {
            prop_assert_eq!(&bytes[offset..offset + command.len()], command);
        }
        for cut in 0..bytes.len() {
            prop_assert!(Block::parse(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn frames_survive_being_cut_anywhere(
        frames in vec(frames(), 1..4),
        chunk_bytes in vec(1_usize..50, 1..10),
    ) {
        let stream = frames.concat();
        let whole: Vec<Frame> = frames.iter().map(|f| framed(|out| out.extend_from_slice(f))).collect();
        let (mut buffer, mut read, mut at) = (BytesMut::new(), Vec::new(), 0);
        for chunk in chunk_bytes.iter().cycle() {
            let end = stream.len().min(at + chunk);
            buffer.extend_from_slice(&stream[at..end]);
            at = end;
            while let Some(frame) = take_frame(&mut buffer).unwrap() {
                read.push(frame);
            }
            if at == stream.len() {
                break;
            }
            prop_assert!(missing_bytes(&buffer) > 0, "an unfinished frame needs more");
        }
        prop_assert_eq!(read, whole);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn half_a_frame_is_no_frame_and_stays_where_it_is(frame in frames(), cut in any::<prop::sample::Index>()) {
        let cut = cut.index(frame.len());
        let mut buffer = BytesMut::from(&frame[..cut]);
        prop_assert_eq!(take_frame(&mut buffer), Ok(None));
        prop_assert_eq!(&buffer[..], &frame[..cut]);
        let missing = missing_bytes(&buffer);
        let of_header = FRAME_HEADER_BYTES.saturating_sub(cut);
        prop_assert_eq!(missing, if of_header > 0 { of_header } else { frame.len() - cut });
    }

    #[test]
    fn a_flipped_bit_is_never_read_as_the_same_frame(
        frame in frames(),
        at in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let whole = framed(|out| out.extend_from_slice(&frame));
        let mut damaged = BytesMut::from(&frame[..]);
        damaged[at.index(frame.len())] ^= 1 << bit;
        match take_frame(&mut damaged) {
            // A length that grew waits for bytes that never come; the connection's pings end it.
            Err(_) | Ok(None) => {}
            // Records in a tail carry their own checksums; the frame's is 0 for them.
            Ok(Some(taken)) => {
                prop_assert_eq!(&taken.head, &whole.head);
                if let Ok(message) = read_message(seed(), GROUP, &whole) {
                    prop_assert_ne!(read_message(seed(), GROUP, &taken), Ok(message));
                } else {
                    prop_assert_ne!(taken.tail, whole.tail);
                }
            }
        }
    }

    #[test]
    fn garbage_is_refused_or_waited_for(bytes in vec(any::<u8>(), 0..300)) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = take_frame(&mut buffer) {
            read_as_anything(&frame);
        }
        let _missing = missing_bytes(&buffer);
        let _block = Block::parse(&bytes);
        let _record = Record::take(seed(), &mut Bytes::from(bytes));
    }

    #[test]
    fn well_framed_garbage_is_refused_without_a_panic(
        head in vec(any::<u8>(), 0..200),
        tail in vec(any::<u8>(), 0..200),
    ) {
        read_as_anything(&Frame { head: head.into(), tail: tail.into() });
    }

    #[test]
    fn a_head_with_one_byte_changed_reads_as_something_or_is_refused(
        frame in frames(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let frame = framed(|out| out.extend_from_slice(&frame));
        let mut head = frame.head.to_vec();
        let at = at.index(head.len());
        head[at] = byte;
        read_as_anything(&Frame { head: head.into(), tail: frame.tail });
    }
}

#[test]
fn the_checks_of_a_frame_cover_its_lengths() {
    let mut out = BytesMut::new();
    write_client_frame(&mut out, &ClientFrame::Ping(1), &[Bytes::from_static(b"tail")]);
    // One byte moves from the tail to the head; the bytes themselves stay.
    out[0] += 1;
    out[4] -= 1;
    assert_eq!(take_frame(&mut out), Err(wire::WireError::Checksum));
}

#[test]
fn a_frame_longer_than_the_limit_is_refused_by_its_header_alone() {
    let mut header = BytesMut::from(&[0xff; FRAME_HEADER_BYTES][..]);
    assert!(matches!(take_frame(&mut header), Err(wire::WireError::TooLong { .. })));
}
