//! Backups: what is in one is what was there when it began, whatever happens meanwhile, and no damage to
//! a file stays unseen.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use bytes::Bytes;
use engine::api::{BackupAnswer, BackupRequest, Rejection, Request, Response};
use engine::backup::{Contents, Encoder, FormatError, Header, ReadError, State, check};
use engine::ids::{GroupId, LogIndex, SessionId};
use engine::limits;
use engine::queue::{Command, Message, ReceiveMode, Reply};
use engine::raft::SnapshotMeta;
use engine::storage::{RestoreFileError, StorageError, Store, restore, restored_node};
use engine::time::Micros;
use proptest::prelude::*;
use sim::disk::{Fate, SimDisk};
use std::convert::Infallible;
use std::sync::LazyLock;
use tests::lone::{Lone, identity, send};

const BACKUP: u64 = 77;
const BODY_BYTES: usize = 150;

/// A node in whose queue messages wait, of which some were taken: enough for several snapshots.
struct Loaded {
    node: Lone,
    session: SessionId,
    sequence: u64,
}

impl Loaded {
    fn new() -> Self {
        let mut node = Lone::new(&identity(1, 1));
        let session = node.open_session();
        let mut loaded = Self { node, session, sequence: 0 };
        (0..90).for_each(|ordinal| loaded.send(ordinal));
        loaded.take(30);
        loaded
    }

    fn command(&mut self, command: &Command) -> Reply {
        self.sequence += 1;
        self.node.command(self.session, self.sequence, command).0.unwrap()
    }

    fn send(&mut self, ordinal: u64) {
        self.command(&send("q", ordinal, BODY_BYTES));
    }

    fn take(&mut self, max: u32) {
        let (queue, mode) = ("q".to_owned(), ReceiveMode::Take);
        self.command(&Command::Receive { queue, max, mode });
    }

    fn backup(&mut self, request: BackupRequest) -> (BackupAnswer, Vec<Bytes>) {
        backup(&mut self.node, request)
    }

    fn begin(&mut self) -> SnapshotMeta {
        begin(&mut self.node, BACKUP).unwrap()
    }

    /// Pulls a backup that was begun; `between` is called between any two steps of it.
    fn pull(&mut self, meta: SnapshotMeta, mut between: impl FnMut(&mut Self)) -> Vec<u8> {
        let (cluster, group, node) = (identity(1, 1).cluster, GroupId(0), identity(1, 1).node);
        let header = Header { cluster, group, node, meta };
        let (mut encoder, mut file) = Encoder::new(&header);
        let mut state = Vec::new();
        while (state.len() as u64) < header.meta.bytes {
            between(self);
            let request =
                BackupRequest::State { backup: BACKUP, offset: state.len() as u64, len: 500 };
            let (answer, bodies) = self.backup(request);
            assert_eq!(answer, BackupAnswer::State);
            file.extend_from_slice(&encoder.state(&bodies[0]));
            file.extend_from_slice(&bodies[0]);
            state.extend_from_slice(&bodies[0]);
        }
        let live = State::restore(&header.meta, &state).unwrap().live_entries();
        for indices in live.chunks(7) {
            between(self);
            let indices = indices.to_vec();
            let wanted = indices.len();
            let (answer, bodies) = self.backup(BackupRequest::Records { backup: BACKUP, indices });
            assert_eq!((answer, bodies.len()), (BackupAnswer::Records, wanted));
            file.extend_from_slice(&encoder.records(&bodies));
            bodies.iter().for_each(|body| file.extend_from_slice(body));
        }
        file.extend_from_slice(&encoder.finish());
        file
    }
}

fn backup(node: &mut Lone, request: BackupRequest) -> (BackupAnswer, Vec<Bytes>) {
    match node.ask(Request::Backup(request)) {
        Response::Backup { answer, bodies } => (answer, bodies),
        other => panic!("{other:?}"),
    }
}

/// Asks until the snapshot is ready.
fn begin(node: &mut Lone, backup_name: u64) -> Result<SnapshotMeta, BackupAnswer> {
    let begin =
        BackupRequest::Begin { backup: backup_name, at_least: node.replica.applied_index() };
    for _ in 0..10 {
        match backup(node, begin.clone()).0 {
            BackupAnswer::Ready { meta, .. } => return Ok(*meta),
            BackupAnswer::Preparing { .. } => node.wait(Micros::from_millis(1)),
            other => return Err(other),
        }
    }
    panic!("a snapshot is saved within a few turns")
}

fn reader(mut rest: &[u8]) -> impl FnMut(usize) -> Result<Bytes, Infallible> {
    move |len| {
        let (bytes, after) = rest.split_at(len.min(rest.len()));
        rest = after;
        Ok(Bytes::copy_from_slice(bytes))
    }
}

fn check_bytes(file: &[u8]) -> Result<Contents, FormatError> {
    check(reader(file), |_| ()).map_err(|error| match error {
        ReadError::Format(error) => error,
        ReadError::Source(never) => match never {},
    })
}

/// A backup that was pulled while nothing happened.
static FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut loaded = Loaded::new();
    let meta = loaded.begin();
    loaded.pull(meta, |_| ())
});

#[test]
fn a_backup_holds_what_was_there_when_it_began_whatever_is_taken_and_sent_meanwhile() {
    let mut loaded = Loaded::new();
    let meta = loaded.begin();
    let mut ordinal = 1_000;
    let file = loaded.pull(meta.clone(), |loaded| {
        // More than makes a snapshot, and all of what the backup consists of is taken at once.
        loaded.take(100);
        (0..40).for_each(|at| loaded.send(ordinal + at));
        ordinal += 40;
    });
    let contents = check_bytes(&file).unwrap();
    assert_eq!((contents.messages, contents.header.meta), (60, meta));
    assert_eq!(contents.queues[0].available, 60);
    assert_eq!(contents.file_bytes, file.len() as u64);
    assert_eq!(loaded.backup(BackupRequest::End { backup: BACKUP }).0, BackupAnswer::Ended);
}

/// Restores a backup for a node of a new cluster, and starts it.
fn restored(file: &[u8]) -> Lone {
    let header = check_bytes(file).unwrap().header;
    let node = restored_node(&header);
    assert!(!header.meta.membership.1.was_given_out(node), "no number of the old cluster");
    let identity = identity(2, node.0);
    let mut disk = SimDisk::new();
    restore(&mut disk, &identity, reader(file), |_| ()).unwrap();
    disk.crash_with(|_, _| Fate::Lost);
    assert_eq!(Store::read_identity(&mut disk).unwrap(), identity);
    let refused = restore(&mut disk, &identity, reader(file), |_| ());
    assert!(matches!(refused, Err(RestoreFileError::Storage(StorageError::NotEmpty { .. }))));
    Lone::start(disk, &identity)
}

#[test]
fn what_a_backup_holds_is_there_once_and_in_order_in_a_new_cluster() {
    let mut node = restored(&FILE);
    let session = node.open_session();
    for sequence in 1..=2 {
        // What was sent before the backup is known, whether it still waits or was taken.
        let ordinal = if sequence == 1 { 5 } else { 50 };
        let (reply, _) = node.command(session, sequence, &send("q", ordinal, BODY_BYTES));
        assert!(matches!(reply, Ok(Reply::SentOne(sent)) if sent.duplicate));
    }
    let (queue, mode) = ("q".to_owned(), ReceiveMode::Take);
    let (_, bodies) = node.command(session, 3, &Command::Receive { queue, max: 100, mode });
    let bodies: Vec<_> = bodies.iter().map(|body| Message::decode(body).unwrap().body).collect();
    let expected: Vec<_> = (30..90_u8).map(|ordinal| vec![ordinal; BODY_BYTES]).collect();
    assert_eq!(bodies, expected);
    // It lives on: more snapshots, and another start.
    (4..100).for_each(|sequence| {
        let (reply, _) = node.command(session, sequence, &send("q", 10_000 + sequence, BODY_BYTES));
        reply.unwrap();
    });
    let identity = identity(2, 2);
    let mut node = Lone::start(node.disk, &identity);
    node.wait(Micros::from_secs(1));
    assert_eq!(node.replica.machine().message_count(), 96);
}

#[test]
fn what_an_old_client_repeats_is_answered_as_it_was_before_the_backup() {
    let mut loaded = Loaded::new();
    let meta = loaded.begin();
    let (session, sequence) = (loaded.session, loaded.sequence);
    let file = loaded.pull(meta, |_| ());
    let mut node = restored(&file);
    // The last call before the backup took 30 messages: it takes no others when it is repeated.
    let (queue, mode) = ("q".to_owned(), ReceiveMode::Take);
    let (reply, bodies) =
        node.command(session, sequence, &Command::Receive { queue, max: 30, mode });
    assert!(matches!(reply, Ok(Reply::Received { .. })));
    let first = Message::decode(&bodies[0]).unwrap().body;
    assert_eq!((bodies.len(), first), (30, vec![0; BODY_BYTES]));
    assert_eq!(node.replica.machine().message_count(), 60);
    assert_ne!(node.open_session(), session, "no session id is given out twice");
}

#[test]
fn a_backup_has_at_least_what_its_client_had_seen() {
    let mut loaded = Loaded::new();
    let applied = loaded.node.replica.applied_index();
    assert!(loaded.begin().last.index >= applied);
    // Nobody can promise what is not applied here.
    let (backup, at_least) = (BACKUP, applied.next().next());
    let (answer, _) = loaded.backup(BackupRequest::Begin { backup, at_least });
    assert_eq!(answer, BackupAnswer::Preparing { applied });
}

#[test]
fn a_member_serves_one_backup_at_a_time_and_forgets_one_that_nobody_pulls() {
    let mut loaded = Loaded::new();
    let meta = loaded.begin();
    let busy = BackupAnswer::Busy { left: limits::BACKUP_PATIENCE };
    assert_eq!(begin(&mut loaded.node, BACKUP + 1), Err(busy));
    let state = BackupRequest::State { backup: BACKUP, offset: 0, len: 10 };
    loaded.node.wait(Micros(limits::BACKUP_PATIENCE.0 - 1));
    assert_eq!(loaded.backup(state.clone()).0, BackupAnswer::State);
    loaded.node.wait(limits::BACKUP_PATIENCE);
    assert_eq!(loaded.backup(state).0, BackupAnswer::Gone);
    // And the log is cut short again.
    (2_000..2_100).for_each(|ordinal| loaded.send(ordinal));
    assert!(loaded.node.replica.status().snapshot_index > meta.last.index);
    assert!(begin(&mut loaded.node, BACKUP + 1).is_ok());
}

#[test]
fn records_are_asked_for_in_order_and_within_the_backup() {
    let mut loaded = Loaded::new();
    let last = loaded.begin().last.index;
    for indices in [vec![], vec![LogIndex(5), LogIndex(4)], vec![last.next()]] {
        let request = BackupRequest::Records { backup: BACKUP, indices };
        let response = loaded.node.ask(Request::Backup(request));
        assert!(
            matches!(response, Response::Rejected(Rejection::Malformed { .. })),
            "{response:?}"
        );
    }
}

#[test]
fn a_whole_backup_passes_and_bytes_after_its_end_do_not() {
    let contents = check_bytes(&FILE).unwrap();
    assert_eq!((contents.messages, contents.sessions), (60, 1));
    let longer = [&FILE[..], &[0]].concat();
    let at = FILE.len() as u64;
    let what = "bytes follow its end";
    assert_eq!(check_bytes(&longer), Err(FormatError::Damaged { at, what }));
    assert_eq!(check_bytes(b"something that is no backup"), Err(FormatError::NotABackup));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_bit_is_flipped_is_found(at in 0..FILE.len(), bit in 0_u32..8) {
        let mut file = FILE.clone();
        file[at] ^= 1_u8 << bit;
        prop_assert!(check_bytes(&file).is_err(), "bit {bit} of byte {at}");
    }

    #[test]
    fn wherever_it_is_cut_off_is_found(len in 0..FILE.len()) {
        let found = check_bytes(&FILE[..len]);
        prop_assert_eq!(found, Err(FormatError::Cut { at: len as u64 }));
    }

    #[test]
    fn a_part_that_is_missing_or_doubled_is_found(from in 0..FILE.len(), len in 1..2_000_usize) {
        let end = (from + len).min(FILE.len());
        let missing = [&FILE[..from], &FILE[end..]].concat();
        prop_assert!(check_bytes(&missing).is_err());
        let doubled = [&FILE[..end], &FILE[from..]].concat();
        prop_assert!(check_bytes(&doubled).is_err());
    }
}
