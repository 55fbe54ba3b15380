//! Raft (Ongaro and Ousterhout, 2014; sections are the extended paper's, "thesis" is Ongaro's), with
//! pre-vote and check-quorum.
//!
//! Owns terms, votes, the log and what is committed; knows nothing of what entries mean. Time comes
//! in with every call; what has to happen goes out as [`Output`]. All of it is safe to perform at
//! once: whatever rests on bytes that are not durable yet is withheld in here until they are.
//!
//! Read `role` for the states, then `election`, `follower`, `leader`; `log`, `progress` and `quorum`
//! are their bookkeeping.

mod election;
mod follower;
mod leader;
mod log;
mod membership;
mod message;
mod progress;
mod quorum;
mod role;
mod snapshot;

pub use membership::{Change, ChangeError, ChangeRequest, Claim, Leave, Member, Membership, Step};
pub use message::{AppendOutcome, Body, LogPosition, Message, Standing};
pub use progress::{FlowStatus, FollowerStatus};
pub use quorum::Tally;
pub use snapshot::{Reset, Snapshot, SnapshotMeta};

use crate::api::Token;
use crate::hlc::Hlc;
use crate::ids::{LogIndex, NodeId, Term};
use crate::limits::{self, Limits};
use crate::record::Record;
use crate::storage::{HardState, IoId, Persist, Recovered};
use crate::time::Micros;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use log::Log;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use role::{Follower, Role};

/// A term that no cluster reaches: an election every microsecond takes 36,000 years to get there.
/// A message with a greater one is damaged or malicious, and believing it would end all elections.
const TERM_MAX: Term = Term(1 << 60);

/// How a member is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This member.
    pub node: NodeId,
    /// Who votes.
    pub membership: Membership,
    /// Shortest election timeout; each is drawn from this to twice this.
    pub election_timeout: Micros,
    /// Heartbeat interval.
    pub heartbeat_interval: Micros,
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
    /// Entries were cut off the log, because the leader of a later term has others.
    Truncated {
        /// The first that went.
        from: LogIndex,
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
#[derive(Debug)]
struct Withheld {
    until: IoId,
    to: NodeId,
    message: Message,
}

/// One member of a group.
#[derive(Debug)]
pub struct Raft {
    settings: Settings,
    rng: Xoshiro256PlusPlus,
    term: Term,
    voted_for: Option<NodeId>,
    /// The persist that carries the present term and vote, if they changed since the start.
    hard_state_io: IoId,
    log: Log,
    commit_index: LogIndex,
    role: Role,
    withheld: VecDeque<Withheld>,
}

impl Raft {
    /// A member as it was when its log was last closed, or crashed.
    #[must_use]
    pub fn new(settings: Settings, recovered: &Recovered, now: Micros) -> Self {
        assert!(settings.membership.contains(settings.node));
        let mut raft = Self {
            rng: Xoshiro256PlusPlus::seed_from_u64(settings.seed),
            term: recovered.hard_state.term,
            voted_for: recovered.hard_state.voted_for,
            hard_state_io: IoId::default(),
            log: Log::new(recovered),
            commit_index: recovered.hard_state.commit.min(recovered.last_index),
            role: Role::Follower(Follower {
                leader: None,
                leader_heard_at: None,
                election_at: now,
                validated_index: LogIndex::ZERO,
                reported_index: LogIndex::ZERO,
                round_heard: 0,
            }),
            withheld: VecDeque::new(),
            settings,
        };
        raft.become_follower(raft.term, None, now, &mut Vec::new());
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
        let is_stranger = from == self.settings.node || !self.settings.membership.contains(from);
        if is_stranger || message.term > TERM_MAX || !self.admit_term(from, &message, now, out) {
            return;
        }
        match message.body {
            Body::PreVoteRequest { last } => {
                self.on_pre_vote_request(from, message.term, last, now, out);
            }
            Body::PreVoteResponse { granted } => {
                self.on_pre_vote_response(from, message.term, granted, now, out);
            }
            Body::VoteRequest { last, .. } => self.on_vote_request(from, last, now, out),
            Body::VoteResponse { granted } => self.on_vote_response(from, granted, now, out),
            Body::Append { previous, commit, round, records } => {
                self.on_append(from, previous, commit, round, records, now, out);
            }
            Body::AppendResponse { round, outcome, .. } => {
                self.on_append_response(from, round, outcome, now, out);
            }
            Body::Snapshot { .. }
            | Body::SnapshotResponse { .. }
            | Body::TimeoutNow
            | Body::ReadRequest { .. }
            | Body::ReadResponse { .. }
            | Body::Removed { .. } => {}
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
                Body::VoteRequest { .. } if self.hears_leader(now) => return false,
                Body::Append { .. } => self.become_follower(message.term, Some(from), now, out),
                Body::VoteRequest { .. }
                | Body::PreVoteResponse { granted: false }
                | Body::VoteResponse { .. }
                | Body::AppendResponse { .. }
                | Body::Snapshot { .. }
                | Body::SnapshotResponse { .. }
                | Body::TimeoutNow
                | Body::ReadRequest { .. }
                | Body::ReadResponse { .. }
                | Body::Removed { .. } => {
                    self.become_follower(message.term, None, now, out);
                }
            }
            return true;
        }
        match message.body {
            // A candidate that failed may be in a higher term than a leader that works; its answer
            // is how the leader learns of the term, steps down and is elected anew.
            Body::Append { previous, .. } => {
                let outcome = AppendOutcome::Rejected {
                    previous_index: previous.index,
                    hint: LogPosition::default(),
                };
                let standing = self.standing();
                self.send_after_hard_state(
                    from,
                    Body::AppendResponse { round: 0, standing, outcome },
                    out,
                );
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
            | Body::Snapshot { .. }
            | Body::SnapshotResponse { .. }
            | Body::TimeoutNow
            | Body::ReadRequest { .. }
            | Body::ReadResponse { .. }
            | Body::Removed { .. } => {}
        }
        false
    }

    /// The driver's loop turned: looks at the deadlines, sends what can be sent, and lets one
    /// persist carry all that changed.
    pub fn on_turn(&mut self, now: Micros, out: &mut Vec<Output>) {
        match &self.role {
            Role::Leader(_) => self.lead(now, out),
            Role::Follower(Follower { election_at, .. }) => {
                if *election_at <= now {
                    self.become_pre_candidate(now, out);
                }
            }
            Role::PreCandidate(role) => {
                if role.election_at <= now {
                    self.become_pre_candidate(now, out);
                }
            }
            Role::Candidate(role) => {
                if role.election_at <= now {
                    self.become_pre_candidate(now, out);
                }
            }
        }
        if self.log.has_unissued() || self.hard_state_io > self.log.last_io() {
            let persist = self.log.issue(self.hard_state());
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
            Role::Follower(role) => role.election_at,
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
        }
        if let Role::Leader(role) = &mut self.role {
            let mut tokens = core::mem::take(&mut role.reads.waiting);
            tokens.extend(role.reads.under_way.drain(..).flat_map(|(_, _, tokens)| tokens));
            if !tokens.is_empty() {
                out.push(Output::ReadsFailed { tokens });
            }
        }
        self.role = Role::Follower(Follower {
            leader,
            leader_heard_at: leader.map(|_| now),
            election_at: self.draw_election_deadline(now),
            validated_index: self.commit_index,
            reported_index: LogIndex::ZERO,
            round_heard: 0,
        });
    }

    /// §5.2: randomised, so that split votes are rare and do not repeat.
    fn draw_election_deadline(&mut self, now: Micros) -> Micros {
        let shortest = self.settings.election_timeout.0;
        now + Micros(self.rng.random_range(shortest..shortest * 2))
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

    fn standing(&self) -> Standing {
        Standing { priority: 0, is_fit: true }
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

    /// The other voters, as a copy without allocation: this is asked at every turn of a leader.
    fn others(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.settings.node;
        let mut others = [NodeId::ZERO; 2 * limits::MEMBERS_MAX];
        let mut count = 0;
        for node in self.settings.membership.voters().filter(|node| *node != me) {
            others[count] = node;
            count += 1;
        }
        others.into_iter().take(count)
    }
}

/// What those around a member may know of it.
impl Raft {
    /// Who it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.settings.node
    }

    /// Its role.
    #[must_use]
    pub fn role(&self) -> RoleName {
        match self.role {
            Role::Follower(_) => RoleName::Follower,
            Role::PreCandidate(_) => RoleName::PreCandidate,
            Role::Candidate(_) => RoleName::Candidate,
            Role::Leader(_) => RoleName::Leader,
        }
    }

    /// Whether it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// The leader of its term, if it knows one.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        match &self.role {
            Role::Follower(role) => role.leader,
            Role::PreCandidate(_) | Role::Candidate(_) => None,
            Role::Leader(_) => Some(self.settings.node),
        }
    }

    /// The newest membership in its log.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.settings.membership
    }

    /// Its term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whom it voted for in this term.
    #[must_use]
    pub fn voted_for(&self) -> Option<NodeId> {
        self.voted_for
    }

    /// The last entry known to be committed.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        self.commit_index
    }

    /// The last entry of its log.
    #[must_use]
    pub fn last_index(&self) -> LogIndex {
        self.log.last_index()
    }

    /// The last entry's stamp.
    #[must_use]
    pub fn last_stamp(&self) -> Hlc {
        self.log.last_stamp()
    }

    /// The last entry that is durable here.
    #[must_use]
    pub fn durable_index(&self) -> LogIndex {
        self.log.durable_index()
    }

    /// The term of an entry, if it is in the log.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// An entry, if it is still in memory.
    #[must_use]
    pub fn cached(&self, index: LogIndex) -> Option<&Record> {
        self.log.cached(index)
    }

    /// On a leader, each other member.
    #[must_use]
    pub fn followers(&self) -> Vec<FollowerStatus> {
        match &self.role {
            Role::Leader(role) => role.followers.iter().map(|(n, p)| p.status(*n)).collect(),
            Role::Follower(_) | Role::PreCandidate(_) | Role::Candidate(_) => Vec::new(),
        }
    }

    /// Lets cached entries go that are durable and not after `needed_after`.
    pub fn trim_cache(&mut self, needed_after: LogIndex) {
        self.log.trim_cache(self.settings.limits.log_cache_bytes_max, needed_after);
    }

    /// Checks what must hold between any two calls.
    ///
    /// # Panics
    /// With the name of the invariant that does not hold.
    pub fn check_invariants(&self) {
        self.log.check_invariants();
        assert!(self.commit_index <= self.log.last_index(), "commit_within_log");
        assert!(self.log.last().term <= self.term, "no_entry_of_a_later_term");
        assert!(
            self.withheld.iter().zip(self.withheld.iter().skip(1)).all(|(a, b)| a.until <= b.until),
            "withheld_in_order"
        );
        assert!(
            self.withheld.front().is_none_or(|withheld| withheld.until > self.log.durable_io()),
            "released_when_durable"
        );
        match &self.role {
            Role::Follower(role) => {
                assert!(role.validated_index <= self.log.last_index(), "validated_within_log");
            }
            Role::PreCandidate(_) => {}
            Role::Candidate(_) => {
                assert_eq!(self.voted_for, Some(self.settings.node), "candidate_votes_for_itself");
            }
            Role::Leader(role) => {
                assert_eq!(self.voted_for, Some(self.settings.node), "leader_votes_for_itself");
                assert!(self.hard_state_io <= self.log.durable_io(), "leader_is_durably_so");
                let is_new = role.first_index > self.log.last_index();
                assert!(is_new || self.log.last().term == self.term, "leader_log_ends_in_its_term");
                for (_, progress) in &role.followers {
                    assert!(progress.match_index < progress.next_index, "match_below_next");
                    assert!(progress.next_index <= self.log.last_index().next(), "next_within_log");
                }
            }
        }
    }
}
