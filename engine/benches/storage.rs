//! How long a log takes to open, and what a flush costs beside the disk.
//!
//! Over a disk in memory, so that only our own work counts: reading, checksums, and the map of
//! entries. `cargo bench -p engine --bench storage`.

use bytes::Bytes;
use divan::counter::BytesCount;
use engine::hlc::Hlc;
use engine::ids::{ClusterId, GroupId, LogIndex, NodeId, Term};
use engine::limits::Limits;
use engine::record::{ChecksumSeed, EntryKind, Record, RecordBuilder};
use engine::storage::disk::{Disk, DiskError, DiskOp, FileName, JobId, free_bytes_answer};
use engine::storage::{HardState, Identity, IoId, Persist, Store};
use std::collections::BTreeMap;

const MESSAGES: u64 = 1_000_000;
const MESSAGE_BYTES: usize = 256;
const CLUSTER: ClusterId = ClusterId([7; 16]);
const GROUP: GroupId = GroupId(0);
const NODE: NodeId = NodeId(1);

fn main() {
    divan::main();
}

/// Files in memory that are durable at once.
#[derive(Clone, Default)]
struct MemoryDisk {
    files: BTreeMap<FileName, Vec<u8>>,
}

impl Disk for MemoryDisk {
    fn list(&mut self) -> Result<Vec<(FileName, u64)>, DiskError> {
        Ok(self.files.iter().map(|(file, bytes)| (*file, bytes.len() as u64)).collect())
    }

    fn perform(&mut self, op: &DiskOp) -> Result<Bytes, DiskError> {
        match op {
            DiskOp::Read { file, offset, len } => {
                let bytes = &self.files[file][*offset as usize..];
                return Ok(Bytes::copy_from_slice(&bytes[..bytes.len().min(*len)]));
            }
            DiskOp::Write { file, offset, parts } => {
                let bytes = self.files.entry(*file).or_default();
                bytes.truncate(*offset as usize);
                for part in parts {
                    bytes.extend_from_slice(part);
                }
            }
            DiskOp::Truncate { file, len } => {
                self.files.entry(*file).or_default().truncate(*len as usize);
            }
            DiskOp::Rename { from, to } => {
                let bytes = self.files.remove(from).expect("the store renames what it wrote");
                self.files.insert(*to, bytes);
            }
            DiskOp::Delete { file } => {
                self.files.remove(file);
            }
            DiskOp::Sync { .. } | DiskOp::SyncDirectory => {}
            DiskOp::Space => return Ok(free_bytes_answer(u64::MAX)),
        }
        Ok(Bytes::new())
    }
}

fn open(disk: &mut MemoryDisk) -> Store {
    let (store, _) = Store::open(disk, CLUSTER, GROUP, NODE, &Limits::default())
        .expect("the benchmark wrote it");
    store
}

fn empty() -> MemoryDisk {
    let mut disk = MemoryDisk::default();
    let identity = Identity::founder(CLUSTER, GROUP, NODE, Vec::new());
    Store::format(&mut disk, &identity).expect("the directory is empty");
    disk
}

fn record(index: u64, messages: usize) -> Record {
    let mut builder = RecordBuilder::with_capacity(messages * MESSAGE_BYTES);
    let payload_len = messages * MESSAGE_BYTES;
    builder.payload_mut().extend((0..payload_len).map(|at| (at as u64 * index) as u8));
    let seed = ChecksumSeed::of(CLUSTER, GROUP);
    builder.seal(seed, GROUP, LogIndex(index), Term(1), Hlc(index), EntryKind::Commands)
}

fn flush(store: &mut Store, disk: &mut MemoryDisk, io: u64, records: Vec<Record>) {
    let hard_state = HardState { term: Term(1), voted_for: Some(NODE), commit: LogIndex(io) };
    store.persist(Persist { io: IoId(io), hard_state, reset: None, records });
    let job = store.next_write(JobId(io)).expect("something is queued");
    job.perform(disk).result.expect("memory does not fail");
    store.write_done();
}

/// A log of a million messages, `batch` to an entry and an entry to a flush: the most headers there
/// can be.
fn log_of_a_million(batch: usize) -> MemoryDisk {
    let mut disk = empty();
    let mut store = open(&mut disk);
    for index in 1..=MESSAGES / batch as u64 {
        flush(&mut store, &mut disk, index, vec![record(index, batch)]);
    }
    disk
}

/// Opens a log of a million messages of 256 bytes.
#[divan::bench(args = [1, 100], sample_count = 10, sample_size = 1)]
fn open_a_million_messages(bencher: divan::Bencher<'_, '_>, batch: usize) {
    let mut disk = log_of_a_million(batch);
    let bytes: usize = disk.files.values().map(Vec::len).sum();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| open(&mut disk));
}

/// Flushes batches, without a disk's own time: what the writer's thread and the engine's pay for
/// headers, the map and the copy into the file.
#[divan::bench(args = [1, 100, 4_000])]
fn flush_a_batch(bencher: divan::Bencher<'_, '_>, messages: usize) {
    let mut disk = empty();
    let mut store = open(&mut disk);
    let mut index = 0;
    bencher
        .counter(divan::counter::ItemsCount::new(messages))
        .with_inputs(|| {
            index += 1;
            record(index, messages)
        })
        .bench_local_values(|record| {
            // Keeps the memory of a long run bounded.
            disk.files.retain(|_, bytes| bytes.len() < 60 << 20);
            flush(&mut store, &mut disk, record.index().0, vec![record]);
        });
}
