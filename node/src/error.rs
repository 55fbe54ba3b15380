//! Why a node does not start or does not go on.

use engine::replica::OpenError;
use std::io;

/// Why [`run`](crate::run) ended otherwise than by its shutdown signal.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data directory cannot be used.
    #[error("cannot open the data directory: {0}")]
    Open(#[from] OpenError),
    /// The address is taken.
    #[error(
        "cannot listen on {address}: another process has this port; stop it, or choose another \
         address with --listen"
    )]
    AddressInUse {
        /// Where the node should listen.
        address: String,
    },
    /// The address cannot be listened on for another reason.
    #[error(
        "cannot listen on {address}: {error}; give an address of this machine with --listen, for \
         example 0.0.0.0:PORT for all of its interfaces"
    )]
    Listen {
        /// Where the node should listen.
        address: String,
        /// What the system says.
        error: io::Error,
    },
    /// The disk failed while the node ran.
    #[error(
        "the node stopped because its disk failed: {reason}; whatever was acknowledged is on a \
         majority of the nodes. Check the disk, then start the node again"
    )]
    Disk {
        /// What failed.
        reason: String,
    },
}
