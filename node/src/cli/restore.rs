//! `node restore`: a new cluster of one, out of a backup.
//!
//! Owns the order: the whole file is checked before anything is written. Next: `engine::storage::restore`,
//! which writes.

use super::init::{mint_cluster, parse_address};
use super::recover::check_is_empty;
use super::{Failure, STRONG};
use bytes::Bytes;
use engine::backup::{Contents, check};
use engine::storage::{Identity, restore, restored_node};
use indicatif::{ProgressBar, ProgressStyle};
use node::DiskPort;
use node::disk::FileDisk;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::ExitCode;

/// Makes a new cluster of one node out of a file that `posthaste backup` wrote, with everything that is
/// in it: queues, leases, and the ids and sessions by which a repeated send is known. The cluster has a
/// new id, so nothing of the old one mixes with it; clients that name the cluster have to name the new
/// one. The other nodes join it with `node join`, each with an empty directory. The file is checked from
/// its beginning to its end before anything is written.
#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// The backup.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Directory to make; must be empty or not there yet.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where clients and further nodes will reach this node.
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_address)]
    address: String,
}

impl Restore {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (file, data) = (self.file.display(), self.data.display());
        check_is_empty(&self.data)?;
        let contents = self.check()?;
        let header = &contents.header;
        let node = restored_node(header);
        let members = vec![(node, self.address.clone())];
        let identity = Identity::founder(mint_cluster(&members)?, header.group, node, members);
        let mut target = FileDisk::create(&self.data)?;
        let bar = bar("writing", contents.file_bytes)?;
        let tell = |at| bar.set_position(at);
        restore(target.recovery(), &identity, self.reader()?, tell).map_err(|error| {
            format!("what is in {data} is not complete, and of no use: {error}; delete it")
        })?;
        bar.finish_and_clear();
        let Contents { queues, messages, .. } = &contents;
        let (last, of, at) =
            (header.meta.last.index, header.cluster, header.meta.stamp.to_rfc3339());
        anstream::println!("{STRONG}cluster {}{STRONG:#}", identity.cluster);
        anstream::println!(
            "Restored {messages} messages in {} queues from {file}, cluster {of} up to entry {last} of \
             {at}, to {data}, for node {node} at {}.\n",
            queues.len(),
            self.address
        );
        anstream::println!(
            "Start it:\n\n  node start --data {data}\n\nThen let others join, each on its machine:\n\n  \
             node join --data DIR --address HOST:PORT --cluster-address {}",
            self.address
        );
        Ok(ExitCode::SUCCESS)
    }

    fn check(&self) -> Result<Contents, Failure> {
        let file = self.file.display();
        let len = File::open(&self.file).and_then(|file| file.metadata()).map(|meta| meta.len());
        let bar = bar("checking", len.unwrap_or_default())?;
        let contents = check(self.reader()?, |at| bar.set_position(at));
        bar.finish_and_clear();
        contents.map_err(|error| format!("{file}: {error}; nothing was written").into())
    }

    fn reader(&self) -> Result<impl FnMut(usize) -> io::Result<Bytes> + use<>, Failure> {
        let shown = self.file.display();
        let mut file =
            File::open(&self.file).map_err(|error| format!("cannot read {shown}: {error}"))?;
        Ok(move |len: usize| {
            let mut bytes = Vec::new();
            (&mut file).take(len as u64).read_to_end(&mut bytes).map(|_| Bytes::from(bytes))
        })
    }
}

/// A bar over the bytes of the file, on a terminal.
fn bar(what: &'static str, bytes: u64) -> Result<ProgressBar, Failure> {
    let style = ProgressStyle::with_template("{msg} {bar:40} {bytes}/{total_bytes}, {eta} left")?;
    Ok(ProgressBar::new(bytes).with_style(style).with_message(what))
}
