//! Raft (Ongaro and Ousterhout, 2014; sections are the extended paper's, "thesis" is Ongaro's), with
//! pre-vote and check-quorum.
//!
//! Owns terms, votes, the log and what is committed; knows nothing of what entries mean. Time comes
//! in with every call; what has to happen goes out as [`Output`]. All of it is safe to perform at
//! once: whatever rests on bytes that are not durable yet is withheld in here until they are.
//!
//! Read `role` for the states, then `election`, `follower` with `install`, and `leader` with `replicate`,
//! `reads`, `change` and `transfer`; `log`, `memberships`, `progress` and `quorum` are their
//! bookkeeping.

mod change;
mod election;
mod follower;
mod install;
mod leader;
mod log;
mod membership;
mod memberships;
mod message;
mod progress;
mod quorum;
mod reads;
mod replicate;
mod role;
mod snapshot;
mod space;
mod status;
mod transfer;

pub use change::Planned;
pub use membership::{Change, ChangeError, ChangeRequest, Claim, Leave, Member, Membership, Step};
pub use message::{AppendOutcome, Body, LogPosition, Message, Standing};
pub use progress::{FlowStatus, FollowerStatus};
pub use quorum::Tally;
pub use snapshot::{Reset, Snapshot, SnapshotMeta};

use crate::api::{Token, TransferError};
use crate::ids::{LogIndex, NodeId, Term};
use crate::limits::Limits;
use crate::storage::{HardState, IoId, Persist, Recovered};
use crate::time::Micros;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use install::Incoming;
use log::Log;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use role::{Follower, ForwardedReads, Role};

/// A term that no cluster reaches: an election every microsecond takes 36,000 years to get there.
/// A message with a greater one is damaged or malicious, and believing it would end all elections.
const TERM_MAX: Term = Term(1 << 60);

/// How a member is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This member.
    pub node: NodeId,
    /// The members that the group began with; empty on a member that joined later.
    pub founding: Membership,
    /// Shortest election timeout; each is drawn from this to twice this.
    pub election_timeout: Micros,
    /// Heartbeat interval.
    pub heartbeat_interval: Micros,
    /// Leadership goes to the highest among those that are fit and have caught up.
    pub priority: u8,
    /// If set, the leader may answer reads without asking, for as long as no other can have been
    /// elected; the clocks of any two members must not drift apart by more than this, in a million.
    pub lease_drift_ppm: Option<u32>,
    /// Bounds of windows and messages.
    pub limits: Limits,
    /// The only entropy.
    pub seed: u64,
}

/// What has to happen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Output {
    /// Send this; it may be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Make this durable and report it with [`Raft::on_persisted`].
    Persist(Persist),
    /// A follower needs entries that are no longer in memory: read from `first` on and hand them to
    /// [`Raft::on_fetched`].
    Fetch {
        /// Who needs them.
        follower: NodeId,
        /// The first.
        first: LogIndex,
    },
    /// These reads may be answered from a state that has applied `index`.
    ReadsReady {
        /// Which.
        tokens: Vec<Token>,
        /// What must be applied.
        index: LogIndex,
    },
    /// These reads will not be answered: this member leads no more.
    ReadsFailed {
        /// Which.
        tokens: Vec<Token>,
    },
    /// A follower needs a piece of the newest snapshot: read it and hand it to
    /// [`Raft::on_snapshot_read`].
    ReadSnapshot {
        /// Who needs it.
        follower: NodeId,
        /// The last entry in the snapshot.
        index: LogIndex,
        /// Bytes from the start of its state.
        offset: u64,
        /// Bytes wanted.
        len: usize,
    },
    /// A follower needs a snapshot of at least this entry: take one when it is applied.
    WantSnapshot {
        /// Which.
        at_least: LogIndex,
    },
    /// The leader's snapshot came: save it, and go on from its state.
    Install(Box<Snapshot>),
    /// Handing over has failed, and this member leads on.
    TransferEnded(TransferError),
    /// Entries were cut off the log, because the leader of a later term has others.
    Truncated {
        /// The first that went.
        from: LogIndex,
    },
    /// The log ends before an entry that this member has once acknowledged: it must do nothing more.
    OlderCopy {
        /// That entry.
        matched: LogPosition,
    },
}

/// What a member is, for those who watch it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RoleName {
    /// Follows a leader or waits for one.
    Follower,
    /// Asks whether it could win.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

/// A message that rests on bytes that are not durable yet.
#[derive(Clone, Hash, Debug)]
struct Withheld {
    until: IoId,
    to: NodeId,
    message: Message,
}

/// One member of a group.
#[derive(Clone, Debug)]
pub struct Raft {
    settings: Settings,
    rng: Xoshiro256PlusPlus,
    term: Term,
    voted_for: Option<NodeId>,
    /// The persist that carries the present term and vote, if they changed since the start.
    hard_state_io: IoId,
    log: Log,
    commit_index: LogIndex,
    /// Our log equals that of this term's leader up to here, not necessarily durably. Of the term and
    /// not of the role: what was said of it in this term stays said.
    validated_index: LogIndex,
    /// The newest snapshot that is saved here, or on its way to the disk before anything else.
    snapshot: Option<SnapshotMeta>,
    /// A snapshot that the leader sends, as far as it has come.
    incoming: Option<Incoming>,
    /// Set while this member knows its log to be damaged: it needs a snapshot of at least this entry.
    damaged_to: Option<LogIndex>,
    /// What this member has vouched for, while its log does not reach that any more because the disk
    /// was damaged; 0 otherwise.
    vouched: LogPosition,
    /// The entry that took this member out of the membership, as another has told.
    removed_at: Option<LogIndex>,
    /// What keeps this member from leading, besides its disk.
    handicap: Handicap,
    /// Whether it may lead, as of the last turn.
    is_fit: bool,
    /// Whether its disk is short of space.
    is_short: bool,
    /// The number of the latest request for a read index; begins at random, so that no earlier life of
    /// this member has used it.
    read_id: u64,
    role: Role,
    withheld: VecDeque<Withheld>,
}

/// What keeps a member from leading, as far as it is seen above Raft.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Handicap {
    /// Committed entries wait to be applied, and nothing has been applied for long.
    pub is_apply_stalled: bool,
    /// The monotonic clock does not go as the wall clock does.
    pub is_clock_bad: bool,
    /// Records are missing here that the state refers to, and that another member may have.
    pub is_incomplete: bool,
    /// The disk refuses to write for want of space.
    pub is_disk_full: bool,
}

/// Everything that has an influence on what a member does next, but the random numbers to come.
impl Hash for Raft {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { settings, rng: _, term, voted_for, hard_state_io, log, commit_index, .. } = self;
        (settings.node, term, voted_for, hard_state_io, log, commit_index).hash(state);
        let Self { snapshot, incoming, damaged_to, vouched, removed_at, .. } = self;
        (snapshot, incoming, damaged_to, vouched, removed_at).hash(state);
        let Self { handicap, is_fit, is_short, .. } = self;
        (handicap, is_fit, is_short).hash(state);
        let Self { validated_index, read_id, role, withheld, .. } = self;
        (validated_index, read_id, role, withheld).hash(state);
    }
}

impl Raft {
    /// A member as it was when its log was last closed, or crashed.
    #[must_use]
    pub fn new(settings: Settings, recovered: &Recovered, now: Micros) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(settings.seed);
        let in_snapshot = recovered.snapshot.as_ref().map_or(LogIndex::ZERO, |s| s.meta.last.index);
        let in_log = recovered.hard_state.commit.min(recovered.last_index);
        let mut raft = Self {
            read_id: rng.random(),
            rng,
            term: recovered.hard_state.term,
            voted_for: recovered.hard_state.voted_for,
            hard_state_io: IoId::default(),
            log: Log::new(settings.founding.clone(), recovered),
            // A snapshot is of committed entries, also while the log has yet to grow up to it.
            commit_index: in_log.max(in_snapshot),
            validated_index: in_log,
            snapshot: recovered.snapshot.as_ref().map(|snapshot| snapshot.meta.clone()),
            incoming: None,
            damaged_to: None,
            vouched: recovered.vouched,
            removed_at: None,
            handicap: Handicap::default(),
            is_fit: true,
            is_short: false,
            role: Role::Follower(Follower {
                leader: None,
                leader_heard_at: None,
                election_at: now,
                reported_index: LogIndex::ZERO,
                round_heard: 0,
                reads: ForwardedReads::default(),
            }),
            withheld: VecDeque::new(),
            settings,
        };
        raft.note_growth();
        raft.become_follower(raft.term, None, now, &mut Vec::new());
        // Before the crash it may have promised a leader not to elect another for a while, and that
        // leader's lease rests on it.
        if raft.settings.lease_drift_ppm.is_some()
            && let Role::Follower(role) = &mut raft.role
        {
            role.leader_heard_at = Some(now);
        }
        raft
    }

    /// Takes a message from another member.
    pub fn on_message(
        &mut self,
        from: NodeId,
        message: Message,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        // Whoever is no member here may be one by an entry that has not come yet (§6), and so is heard.
        let is_nobody = from == self.settings.node || from == NodeId::ZERO;
        if is_nobody || message.term > TERM_MAX {
            return;
        }
        match message.body {
            Body::Removed { membership_index } => {
                return self.on_removed(membership_index, now, out);
            }
            // Of committed entries, which have nothing to do with terms: not Raft's.
            Body::RecordsRequest { .. } | Body::Records { .. } => return,
            Body::PreVoteRequest { .. }
            | Body::PreVoteResponse { .. }
            | Body::VoteRequest { .. }
            | Body::VoteResponse { .. }
            | Body::Append { .. }
            | Body::AppendResponse { .. }
            | Body::Snapshot { .. }
            | Body::SnapshotResponse { .. }
            | Body::TimeoutNow
            | Body::ReadRequest { .. }
            | Body::ReadResponse { .. }
            | Body::OlderCopy { .. } => {}
        }
        if self.tell_removed(from, &message, out) || !self.admit_term(from, &message, now, out) {
            return;
        }
        match message.body {
            Body::PreVoteRequest { last } => {
                self.on_pre_vote_request(from, message.term, last, now, out);
            }
            Body::PreVoteResponse { granted } => {
                self.on_pre_vote_response(from, message.term, granted, now, out);
            }
            Body::VoteRequest { last, is_transfer } => {
                self.on_vote_request(from, last, is_transfer, now, out);
            }
            Body::VoteResponse { granted } => self.on_vote_response(from, granted, now, out),
            Body::Append { previous, commit, round, records } => {
                self.on_append(from, previous, commit, round, records, now, out);
            }
            Body::AppendResponse { round, standing, outcome } => {
                self.on_append_response(from, (round, standing), outcome, now, out);
            }
            Body::Snapshot { round, meta, offset, chunk } => {
                self.on_snapshot(from, round, &meta, offset, &chunk, now, out);
            }
            Body::SnapshotResponse { round, standing, last, next_offset } => {
                self.on_snapshot_response(from, (round, standing), last, next_offset, now, out);
            }
            Body::TimeoutNow => self.on_timeout_now(from, now, out),
            Body::ReadRequest { id } => self.on_read_request(from, id),
            Body::ReadResponse { id, index } => self.on_read_response(id, index, out),
            // Taken above.
            Body::Removed { .. } | Body::RecordsRequest { .. } | Body::Records { .. } => {}
            Body::OlderCopy { matched } => self.on_older_copy(from, matched, out),
        }
    }

    /// §5.1: a higher term is adopted, a lower one refused. Says whether the message goes on.
    fn admit_term(
        &mut self,
        from: NodeId,
        message: &Message,
        now: Micros,
        out: &mut Vec<Output>,
    ) -> bool {
        if message.term == self.term {
            return true;
        }
        if message.term > self.term {
            match message.body {
                // Asking for a pre-vote, and promising one, commits nobody to the term.
                Body::PreVoteRequest { .. } | Body::PreVoteResponse { granted: true } => {}
                // Thesis §4.2.3: whoever hears a leader does not help to depose it.
                Body::VoteRequest { is_transfer: false, .. } if self.hears_leader(now) => {
                    return false;
                }
                Body::Append { .. } | Body::Snapshot { .. } => {
                    self.become_follower(message.term, Some(from), now, out);
                }
                Body::VoteRequest { .. }
                | Body::PreVoteResponse { granted: false }
                | Body::VoteResponse { .. }
                | Body::AppendResponse { .. }
                | Body::SnapshotResponse { .. }
                | Body::TimeoutNow
                | Body::ReadRequest { .. }
                | Body::ReadResponse { .. }
                | Body::OlderCopy { .. }
                | Body::RecordsRequest { .. }
                | Body::Records { .. }
                | Body::Removed { .. } => {
                    self.become_follower(message.term, None, now, out);
                }
            }
            return true;
        }
        match message.body {
            // A candidate that failed may be in a higher term than a leader that works; its answer
            // is how the leader learns of the term, steps down and is elected anew.
            Body::Append { .. } | Body::Snapshot { .. } => {
                let (round, standing, outcome) = (0, self.standing(), AppendOutcome::StaleTerm);
                let body = Body::AppendResponse { round, standing, outcome };
                self.send_after_hard_state(from, body, out);
            }
            Body::PreVoteRequest { .. } => {
                self.send_after_hard_state(from, Body::PreVoteResponse { granted: false }, out);
            }
            Body::VoteRequest { .. } => {
                self.send_after_hard_state(from, Body::VoteResponse { granted: false }, out);
            }
            Body::PreVoteResponse { .. }
            | Body::VoteResponse { .. }
            | Body::AppendResponse { .. }
            | Body::SnapshotResponse { .. }
            | Body::TimeoutNow
            | Body::ReadRequest { .. }
            | Body::ReadResponse { .. }
            | Body::OlderCopy { .. }
            | Body::RecordsRequest { .. }
            | Body::Records { .. }
            | Body::Removed { .. } => {}
        }
        false
    }

    /// The driver's loop turned: looks at the deadlines, sends what can be sent, and lets one
    /// persist carry all that changed.
    pub fn on_turn(&mut self, now: Micros, out: &mut Vec<Output>) {
        self.is_fit = !self.is_disk_stalled(now) && self.handicap == Handicap::default();
        match &self.role {
            Role::Leader(_) => self.lead(now, out),
            Role::Follower(role) if role.election_at > now => self.forward_reads(now, out),
            Role::PreCandidate(role) if role.election_at > now => {}
            Role::Candidate(role) if role.election_at > now => {}
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => {
                self.on_election_timeout(now, out);
            }
        }
        if self.log.has_unissued() || self.hard_state_io > self.log.last_io() {
            let persist = self.log.issue(self.hard_state(), now);
            out.push(Output::Persist(persist));
        }
    }

    /// Everything up to the persist `io` is durable.
    pub fn on_persisted(&mut self, io: IoId, now: Micros, out: &mut Vec<Output>) {
        self.log.on_persisted(io);
        let durable_io = self.log.durable_io();
        while self.withheld.front().is_some_and(|withheld| withheld.until <= durable_io) {
            let Withheld { to, message, .. } = self.withheld.pop_front().expect("just seen");
            out.push(Output::Send { to, message });
        }
        match &self.role {
            Role::Follower(_) => self.report_progress(out),
            Role::PreCandidate(_) => {}
            Role::Candidate(_) => self.count_own_vote(now, out),
            Role::Leader(_) => self.advance_commit(),
        }
    }

    /// When [`on_turn`](Self::on_turn) must come at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Micros {
        match &self.role {
            Role::Follower(role) => {
                // One that stands for no election notices that its leader is gone, and sleeps.
                let has_hope = role.leader.is_some() || !role.reads.waiting.is_empty();
                let needs_timer = self.may_campaign() || has_hope;
                let election_at = if needs_timer { role.election_at } else { Micros::MAX };
                let under_way = role.reads.under_way.as_ref();
                under_way.map_or(election_at, |request| request.repeat_at.min(role.election_at))
            }
            Role::PreCandidate(role) => role.election_at,
            Role::Candidate(role) => role.election_at,
            Role::Leader(role) => role.heartbeat_at,
        }
    }

    /// Follows `leader`, or waits for one, in `term`. In the same term the vote stays: it was given
    /// for the whole term.
    fn become_follower(
        &mut self,
        term: Term,
        leader: Option<NodeId>,
        now: Micros,
        out: &mut Vec<Output>,
    ) {
        assert!(term >= self.term);
        if term > self.term {
            self.term = term;
            self.voted_for = None;
            self.hard_state_io = self.log.next_io();
            self.forget_validation();
        }
        let tokens = self.take_reads();
        if !tokens.is_empty() {
            out.push(Output::ReadsFailed { tokens });
        }
        // A leader that reads under a lease relies on whoever heard it, in later terms too: a refusal
        // that was long under way must not free this member of its word (thesis §6.4.1).
        let promised_at = match &self.role {
            Role::Follower(role) if self.settings.lease_drift_ppm.is_some() => role.leader_heard_at,
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) | Role::Leader(_) => {
                None
            }
        };
        self.role = Role::Follower(Follower {
            leader,
            leader_heard_at: leader.map(|_| now).or(promised_at),
            election_at: self.draw_election_deadline(now),
            reported_index: LogIndex::ZERO,
            round_heard: 0,
            reads: ForwardedReads::default(),
        });
    }

    /// With another term comes another leader: only what is committed is known to be in its log.
    fn forget_validation(&mut self) {
        self.validated_index = self.commit_index.min(self.log.last_index());
    }

    /// §5.2: randomised, so that split votes are rare and do not repeat.
    fn draw_election_deadline(&mut self, now: Micros) -> Micros {
        let shortest = self.settings.election_timeout.0;
        let drawn = self.rng.random_range(shortest..shortest * 2);
        // Whoever is not fit to lead lets the others go first.
        now + Micros(if self.is_fit { drawn } else { drawn + shortest })
    }

    /// Whether a leader was heard within the shortest election timeout (thesis §4.2.3), or is this
    /// member itself. A leader that lost its quorum steps down by itself, see `leader`.
    fn hears_leader(&self, now: Micros) -> bool {
        match &self.role {
            Role::Leader(_) => true,
            Role::Follower(Follower { leader_heard_at: Some(at), .. }) => {
                now.since(*at) < self.settings.election_timeout
            }
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => false,
        }
    }

    /// What this member tells of itself.
    fn standing(&self) -> Standing {
        Standing {
            priority: self.settings.priority,
            is_fit: self.is_fit,
            is_complete: !self.handicap.is_incomplete,
            is_short: self.is_short,
        }
    }

    /// Whether the disk has been busy with one job for two election timeouts: then it has stalled, and
    /// a leader that waits for it keeps everybody waiting.
    fn is_disk_stalled(&self, now: Micros) -> bool {
        let stalled_after = self.settings.election_timeout + self.settings.election_timeout;
        self.log.oldest_issue().is_some_and(|at| now.since(at) >= stalled_after)
    }

    fn hard_state(&self) -> HardState {
        HardState { term: self.term, voted_for: self.voted_for, commit: self.commit_index }
    }

    /// Sends what rests on nothing but what was durable already.
    fn send_now(&self, to: NodeId, body: Body, out: &mut Vec<Output>) {
        out.push(Output::Send { to, message: Message { term: self.term, body } });
    }

    /// Sends what rests on the present term and vote. The persist that carries them also carries, or
    /// follows, every entry that was in the log when they changed.
    fn send_after_hard_state(&mut self, to: NodeId, body: Body, out: &mut Vec<Output>) {
        let until = self.hard_state_io;
        let message = Message { term: self.term, body };
        if until <= self.log.durable_io() {
            out.push(Output::Send { to, message });
            return;
        }
        // A message may be lost and the newest of a kind says all, so that one to each member is
        // enough: what waits is bounded, however long the disk takes.
        let kind = core::mem::discriminant(&message.body);
        self.withheld
            .retain(|older| older.to != to || core::mem::discriminant(&older.message.body) != kind);
        // Kept in the order of their conditions, so that the first one that must wait ends a release.
        let at = self.withheld.partition_point(|withheld| withheld.until <= until);
        self.withheld.insert(at, Withheld { until, to, message });
    }
}
