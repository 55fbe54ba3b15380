//! One Raft member that is handed its messages directly, on a disk that is as fast or as slow as the
//! test wants. For claims about what one member answers; `group` is for what several come to.

use crate::group::settings;
use crate::image::{Image, membership_record, sized_record};
use crate::messages::{append_of, matched, pre_vote_response, vote_response};
use engine::api::{Token, TransferError};
use engine::hlc::Hlc;
use engine::ids::{LogIndex, NodeId, Term};
use engine::raft::{
    ChangeError, ChangeRequest, LogPosition, Membership, Message, Output, Planned, Raft, RoleName,
    Settings, Snapshot,
};
use engine::record::Record;
use engine::storage::{HardState, IoId, Persist};
use engine::time::Micros;

/// Member 1 of a group whose others are played by the test.
pub struct Solo {
    /// The member itself.
    pub raft: Raft,
    /// The time.
    pub now: Micros,
    /// Whether persists wait for [`Solo::flush`]; otherwise they are durable at once.
    pub is_disk_slow: bool,
    /// What it sent since [`Solo::take_sent`]: to whom and what.
    pub sent: Vec<(u64, Message)>,
    /// Persists under way, oldest first.
    pub unsynced: Vec<Persist>,
    /// What its disk holds for certain.
    pub image: Image,
    /// Fetches it asked for: the follower, and the first entry.
    pub fetches: Vec<(u64, u64)>,
    /// From where on entries were cut off, in order.
    pub truncations: Vec<u64>,
    /// Reads that may be answered: token, and what must be applied.
    pub reads: Vec<(u64, u64)>,
    /// Reads that will not be answered.
    pub reads_failed: Vec<u64>,
    /// Why leadership was not handed over, each time.
    pub transfers_ended: Vec<TransferError>,
    /// Told that the log ends before what this member has acknowledged.
    pub older_than: Option<LogPosition>,
    /// Pieces of its snapshot that it asked for: follower, last entry, offset and length.
    pub pieces: Vec<(u64, u64, u64, usize)>,
    /// Entries of which a snapshot is wanted.
    pub wanted: Vec<u64>,
    /// Snapshots that came.
    pub installed: Vec<Snapshot>,
}

impl Solo {
    /// Member 1 of `members`, with an empty disk.
    #[must_use]
    pub fn new(members: u64) -> Self {
        Self::with_log(members, 0, &[])
    }

    /// Member 1 of `members`, started in `term` on a log of entries of `terms`.
    #[must_use]
    pub fn with_log(members: u64, term: u64, terms: &[u64]) -> Self {
        Self::on_disk(settings(1, members, 1), Image::with_log(term, terms))
    }

    /// A member of any settings, started on what the disk holds.
    #[must_use]
    pub fn on_disk(settings: Settings, image: Image) -> Self {
        Self::started(settings, image, Micros::from_secs(1))
    }

    fn started(settings: Settings, image: Image, now: Micros) -> Self {
        Self {
            raft: Raft::new(settings, &image.recovered(), now),
            now,
            is_disk_slow: false,
            sent: Vec::new(),
            unsynced: Vec::new(),
            image,
            fetches: Vec::new(),
            truncations: Vec::new(),
            reads: Vec::new(),
            reads_failed: Vec::new(),
            transfers_ended: Vec::new(),
            older_than: None,
            pieces: Vec::new(),
            wanted: Vec::new(),
            installed: Vec::new(),
        }
    }

    /// Member 1 of `members` in `role` and `term`, with entries of `terms`, of which the last is of
    /// an earlier term. A leader has appended, and not yet replicated, the first entry of its term.
    #[must_use]
    pub fn in_role(role: RoleName, members: u64, term: u64, terms: &[u64]) -> Self {
        let is_past_election = matches!(role, RoleName::Candidate | RoleName::Leader);
        let mut solo = Self::with_log(members, term - u64::from(is_past_election), terms);
        if role != RoleName::Follower {
            solo.time_out();
        }
        if is_past_election {
            solo.win_pre_votes(members);
        }
        if role == RoleName::Leader {
            solo.win_votes(members);
        }
        assert_eq!((solo.raft.role(), solo.raft.term()), (role, Term(term)));
        solo.sent.clear();
        solo
    }

    /// A leader of term 1 with settings of the test's own; its first entry is not replicated yet.
    #[must_use]
    pub fn leader(settings: Settings, members: u64) -> Self {
        let mut solo = Self::on_disk(settings, Image::default());
        solo.campaign(members);
        assert!(solo.raft.is_leader());
        solo.sent.clear();
        solo
    }

    /// Its time is over, and the others promise it their votes and give them, as far as is needed.
    pub fn campaign(&mut self, members: u64) {
        self.time_out();
        self.win_pre_votes(members);
        self.win_votes(members);
    }

    fn win_pre_votes(&mut self, members: u64) {
        let next_term = self.raft.term().0 + 1;
        for voter in 2..=members {
            if self.raft.role() == RoleName::PreCandidate {
                self.hear(voter, pre_vote_response(next_term, true));
            }
        }
    }

    fn win_votes(&mut self, members: u64) {
        let term = self.raft.term().0;
        for voter in 2..=members {
            if self.raft.role() == RoleName::Candidate {
                self.hear(voter, vote_response(term, true));
            }
        }
    }

    /// A leader of `term` whose followers have its whole log, the first entry of the term too, which
    /// is committed; everything later is sent to them as it comes.
    #[must_use]
    pub fn replicating(members: u64, term: u64, terms: &[u64]) -> Self {
        let mut solo = Self::in_role(RoleName::Leader, members, term, terms);
        let last = solo.raft.last_index().0;
        for follower in 2..=members {
            solo.hear(follower, matched(term, last));
        }
        solo.sent.clear();
        solo
    }

    fn act(&mut self, act: impl FnOnce(&mut Raft, Micros, &mut Vec<Output>)) {
        let mut out = Vec::new();
        act(&mut self.raft, self.now, &mut out);
        if self.raft.wants_first_entry() {
            self.append_sized(0);
        }
        self.raft.on_turn(self.now, &mut out);
        self.raft.check_invariants();
        if let Some(membership) = self.raft.wants_membership(self.now) {
            self.append_membership(&membership);
            self.raft.on_turn(self.now, &mut out);
        }
        self.raft.check_invariants();
        for output in out {
            self.take(output);
        }
        while !self.is_disk_slow && !self.unsynced.is_empty() {
            self.flush(1);
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Send { to, message } => self.sent.push((to.0, message)),
            Output::Persist(persist) => self.unsynced.push(persist),
            Output::Fetch { follower, first } => self.fetches.push((follower.0, first.0)),
            Output::Truncated { from } => self.truncations.push(from.0),
            Output::ReadsReady { tokens, index } => {
                self.reads.extend(tokens.iter().map(|token| (token.0, index.0)));
            }
            Output::ReadsFailed { tokens } => {
                self.reads_failed.extend(tokens.iter().map(|token| token.0));
            }
            Output::ReadSnapshot { follower, index, offset, len } => {
                self.pieces.push((follower.0, index.0, offset, len));
            }
            Output::WantSnapshot { at_least } => self.wanted.push(at_least.0),
            // It is durable before the persist that rests on it.
            Output::Install(snapshot) => {
                self.image.snapshot = Some(Snapshot::clone(&snapshot));
                self.installed.push(*snapshot);
            }
            Output::OlderCopy { matched } => self.older_than = Some(matched),
            Output::TransferEnded(error) => self.transfers_ended.push(error),
        }
    }

    fn append_membership(&mut self, membership: &Membership) {
        let (index, term) = (self.raft.next_index().0, self.raft.term().0);
        let stamp = Hlc(index * 100 + term).max(self.raft.last_stamp().next());
        self.raft.append(membership_record(index, term, stamp, membership));
    }

    /// A leader is asked for a change of the membership.
    ///
    /// # Errors
    /// As the leader says.
    pub fn change(&mut self, request: &ChangeRequest) -> Result<(), ChangeError> {
        if let Planned::Append(membership) = self.raft.plan_change(request, self.now)? {
            self.append_membership(&membership);
            self.act(|_, _, _| {});
        }
        Ok(())
    }

    /// A leader is asked to hand over.
    ///
    /// # Errors
    /// As the leader says.
    pub fn transfer(&mut self, to: Option<u64>) -> Result<Option<u64>, TransferError> {
        let mut begun = Ok(None);
        self.act(|raft, now, out| begun = raft.transfer(to.map(NodeId), now, out));
        begun.map(|to| to.map(|node| node.0))
    }

    /// A client of this member reads.
    pub fn read(&mut self, token: u64) {
        self.act(|raft, _, out| raft.read_here(Token(token), out));
    }

    /// The next piece of its snapshot that it asked for was read.
    pub fn read_piece(&mut self) {
        let (follower, index, offset, len) = self.pieces.remove(0);
        let snapshot = self.image.snapshot.as_ref().expect("it asked for it");
        let chunk = snapshot.bytes.slice(offset as usize..offset as usize + len);
        let (follower, index) = (NodeId(follower), LogIndex(index));
        self.act(|raft, now, out| raft.on_snapshot_read(follower, index, offset, chunk, now, out));
    }

    /// The member makes a snapshot of `bytes` of state up to what is committed; it is durable at once.
    /// The log before the previous one goes.
    pub fn snapshot(&mut self, bytes: usize) {
        let last = self.raft.commit_index();
        let stamp = self.image.read(last, 1).first().map_or(Hlc::ZERO, Record::hlc);
        let snapshot = self.raft.make_snapshot(last, stamp, vec![last.0 as u8; bytes]);
        self.image.snapshot = Some(snapshot.clone());
        let first = self.raft.on_snapshot_saved(snapshot.meta);
        self.image.purge(first);
    }

    /// Entries that were asked for were read from the disk.
    pub fn fetched(&mut self, follower: u64, records: Vec<Record>) {
        self.act(|raft, _, out| raft.on_fetched(NodeId(follower), records, out));
    }

    /// A message of `from` arrives.
    pub fn hear(&mut self, from: u64, message: Message) {
        self.act(|raft, now, out| raft.on_message(NodeId(from), message, now, out));
    }

    /// A message of `from` arrives; what is sent because of it comes back, and what was sent before
    /// is dropped.
    pub fn ask(&mut self, from: u64, message: Message) -> Vec<(u64, Message)> {
        self.sent.clear();
        self.hear(from, message);
        self.take_sent()
    }

    /// What was sent since this was called last.
    pub fn take_sent(&mut self) -> Vec<(u64, Message)> {
        std::mem::take(&mut self.sent)
    }

    /// The indexes of the entries that were sent to `to`, message by message, heartbeats left out,
    /// since the last [`Solo::take_sent`].
    #[must_use]
    pub fn entries_sent_to(&self, to: u64) -> Vec<Vec<u64>> {
        let sent = self.sent.iter().filter(|(receiver, _)| *receiver == to);
        let entries = sent.filter_map(|(_, message)| append_of(message));
        entries.map(|(_, _, indexes)| indexes).filter(|indexes| !indexes.is_empty()).collect()
    }

    /// The first `count` persists under way become durable and are reported as one.
    pub fn flush(&mut self, count: usize) {
        let count = count.min(self.unsynced.len());
        let done: Vec<Persist> = self.unsynced.drain(..count).collect();
        for persist in &done {
            self.image.take(persist);
        }
        if let Some(last) = done.last() {
            self.report(last.io);
        }
    }

    /// The disk says that everything up to `io` is durable.
    pub fn report(&mut self, io: IoId) {
        self.act(|raft, now, out| raft.on_persisted(io, now, out));
    }

    /// The member's loop turns, `millis` later.
    pub fn wait(&mut self, millis: u64) {
        self.now = self.now + Micros::from_millis(millis);
        self.act(|_, _, _| {});
    }

    /// The next deadline passes.
    pub fn time_out(&mut self) {
        self.now = self.now.max(self.raft.next_deadline());
        self.act(|_, _, _| {});
    }

    /// The member, a leader, appends an entry.
    pub fn propose(&mut self) {
        self.propose_sized(0);
    }

    /// The same with a payload of `payload_bytes`.
    pub fn propose_sized(&mut self, payload_bytes: usize) {
        self.append_sized(payload_bytes);
        self.act(|_, _, _| {});
    }

    /// Appends without a turn of the loop.
    pub fn append_sized(&mut self, payload_bytes: usize) {
        let (index, term) = (self.raft.next_index().0, self.raft.term().0);
        let stamp = Hlc(index * 100 + term).max(self.raft.last_stamp().next());
        self.raft.append(sized_record(index, term, stamp, payload_bytes));
    }

    /// The member dies with what was under way and starts again on what its disk holds.
    #[must_use]
    pub fn restarted(self, settings: Settings) -> Self {
        Self::started(settings, self.image, self.now)
    }

    /// The terms of all entries after the base, in order.
    #[must_use]
    pub fn log(&self) -> Vec<u64> {
        let term = |index| self.raft.term_at(LogIndex(index)).expect("within the log").0;
        (self.raft.base().index.next().0..=self.raft.last_index().0).map(term).collect()
    }

    /// Role, term and vote.
    #[must_use]
    pub fn standing(&self) -> (RoleName, u64, Option<u64>) {
        (self.raft.role(), self.raft.term().0, self.raft.voted_for().map(|node| node.0))
    }

    /// The commit index.
    #[must_use]
    pub fn commit(&self) -> u64 {
        self.raft.commit_index().0
    }

    /// On a leader, up to where it knows each other member's log to be equal.
    #[must_use]
    pub fn matched(&self) -> Vec<(u64, u64)> {
        let followers = self.raft.followers();
        followers.iter().map(|follower| (follower.node.0, follower.match_index.0)).collect()
    }

    /// The hard state on its disk.
    #[must_use]
    pub fn durable(&self) -> HardState {
        self.image.hard_state
    }
}
