//! One message, from send to delivery. This module has no code: it is where to start reading.
//!
//! A client sends "one pair of boots" to the queue `orders` of a cluster of three, of which node 1
//! leads; another client receives it.
//!
//! # 1. A command becomes a block
//!
//! The client mints a [`MessageId`], puts the [`Message`] into a [`Command::Send`] and gives it the
//! next [`Sequence`] of its session. Whatever else it wants to do at that moment joins it: the
//! [`BlockBuilder`] collects commands into one [block](crate::block). These bytes are final. Nobody
//! between here and the receiver encodes them again.
//!
//! The session was opened by a block of its own ([`BlockKind::OpenSession`]), so its [`SessionId`]
//! was assigned by the log and every member knows it. See [`session`](crate::session).
//!
//! # 2. A block travels
//!
//! It is the tail of a [frame](crate::wire) whose head says [`Call::Propose`]. The node hands it to
//! its replica as [`Request::Propose`] under a [`Token`] that means something only to the node. If
//! this member does not lead, the answer is [`Rejection::NotLeader`] at once, with the leader's
//! name, and the client goes there with the same block.
//!
//! # 3. Blocks become an entry
//!
//! The leader checks the block's structure and has the state machine
//! [validate](crate::state_machine::StateMachine::validate) every command: what is refused here
//! never enters the log. Then the block waits for [`Input::Turn`], which the driver hands in when
//! there is nothing else left to hand in. All blocks that wait by then are one batch. There is no
//! timer: under load batches grow because more is waiting, and when it is quiet nobody waits.
//!
//! The batch is stamped by the [clock](crate::hlc::Clock) and sealed by the [`RecordBuilder`]:
//! index, term, stamp, checksum. From here on it is a [`Record`], the same bytes in memory, on
//! three disks and on two wires.
//!
//! # 4. An entry becomes durable
//!
//! [Raft](crate::raft) sends the record to the followers in [`Body::Append`] and, in the same turn,
//! hands it to its own [store](crate::storage) as a [`Persist`], which leaves the replica as a
//! [`Job`]: one write, one sync. Nothing waits for the other. If the disk is busy the next persists
//! join each other, so that one sync serves them all.
//!
//! A follower compares the entry before, verifies the record's checksum, stores the bytes, and when
//! they are durable, and not before, answers [`AppendOutcome::Matched`]. The leader counts itself
//! when its own sync is reported by [`Input::Disk`]. This is how every effect can be safe to
//! perform at once: what is not yet true has not been said.
//!
//! # 5. An entry is committed and applied
//!
//! Two of three disks hold it, in the leader's own term: it is committed (§5.4.2 of the Raft
//! paper). The engine tells the [`StateMachine`] that log time has
//! [advanced](crate::state_machine::StateMachine::advance) to the entry's stamp, and then applies
//! the blocks one after another. For each command it asks the session first: new, repeated, or out
//! of order? Only a new one reaches [`StateMachine::apply`].
//!
//! [`Queues`] looks whether the message id is known. If not, the message is linked to the end of
//! `orders`: its [`Position`] and a few numbers, and not its body, which stays in the log. The
//! reply is [`Reply::SentOne`] with a [`Receipt`]. It is remembered in the session, and the leader,
//! which alone has a token for it, responds with [`Response::Applied`].
//!
//! The followers do the same when they learn the commit index with the next append, and come to the
//! same state, because they are told the same and read nothing else.
//!
//! # 6. When something goes wrong
//!
//! - The answer is lost. The client sends the block again, to the same or to a new leader. The
//!   session knows the sequence and repeats the remembered reply.
//! - The leader dies before the entry is on a quorum. A new leader is elected that may or may not
//!   have it. The client sends again: either the sequence is known, or it is new.
//! - The leader is deposed while clients wait. It tells them [`Response::Unknown`], as it cannot
//!   know what its successor does. The retry settles it.
//! - The client dies and comes back without its session. It sends again under the same message id,
//!   and gets the first receipt, marked as a duplicate.
//! - A node loses power in the middle of a write. The flush is incomplete, and is cut off when the
//!   node starts; nobody was told of it.
//!
//! # 7. A message is delivered
//!
//! The receiver asks with [`Command::Receive`], which is a command like any other, since it changes
//! what the next receiver gets: steps 1 to 5 once more. If nothing is there the client watches
//! ([`Request::Watch`]) and receives when told. Applying the receive moves the message to the
//! leased ones, under a [`LeaseToken`] that rises with every lease, until a log time. The reply,
//! [`Reply::Received`], names positions; the engine asks the machine for [what it refers
//! to](crate::state_machine::StateMachine::bodies), takes those bytes from its cache of recent
//! entries or has them read, and sends them along.
//!
//! The receiver does its work and sends [`Command::Acknowledge`] with what it [`Held`]. The message
//! is gone, and its id is remembered for the rest of the dedup window. Had the lease ended before,
//! the message would have become available again, and the late acknowledgement, under the older
//! token, would be told that it did nothing.
//!
//! # Where to read on
//!
//! [`replica`](crate::replica) is the door, [`engine`](crate::engine) the life of a request,
//! [`raft`](crate::raft) the agreement, [`storage`](crate::storage) the disk,
//! [`queue`](crate::queue) the meaning. [`limits`](crate::limits) tells how much of everything
//! there can be.
//!
//! [`AppendOutcome::Matched`]: crate::raft::AppendOutcome::Matched
//! [`BlockBuilder`]: crate::block::BlockBuilder
//! [`BlockKind::OpenSession`]: crate::block::BlockKind::OpenSession
//! [`Body::Append`]: crate::raft::Body::Append
//! [`Call::Propose`]: crate::wire::client::Call::Propose
//! [`Command::Acknowledge`]: crate::queue::Command::Acknowledge
//! [`Command::Receive`]: crate::queue::Command::Receive
//! [`Command::Send`]: crate::queue::Command::Send
//! [`Held`]: crate::queue::Held
//! [`Input::Disk`]: crate::replica::Input::Disk
//! [`Input::Turn`]: crate::replica::Input::Turn
//! [`Job`]: crate::storage::disk::Job
//! [`LeaseToken`]: crate::ids::LeaseToken
//! [`MessageId`]: crate::ids::MessageId
//! [`Message`]: crate::queue::Message
//! [`Persist`]: crate::storage::Persist
//! [`Position`]: crate::ids::Position
//! [`Queues`]: crate::queue::Queues
//! [`Receipt`]: crate::queue::Receipt
//! [`RecordBuilder`]: crate::record::RecordBuilder
//! [`Record`]: crate::record::Record
//! [`Rejection::NotLeader`]: crate::api::Rejection::NotLeader
//! [`Reply::Received`]: crate::queue::Reply::Received
//! [`Reply::SentOne`]: crate::queue::Reply::SentOne
//! [`Request::Propose`]: crate::api::Request::Propose
//! [`Request::Watch`]: crate::api::Request::Watch
//! [`Response::Applied`]: crate::api::Response::Applied
//! [`Response::Unknown`]: crate::api::Response::Unknown
//! [`Sequence`]: crate::ids::Sequence
//! [`SessionId`]: crate::ids::SessionId
//! [`StateMachine`]: crate::state_machine::StateMachine
//! [`StateMachine::apply`]: crate::state_machine::StateMachine::apply
//! [`Token`]: crate::api::Token
