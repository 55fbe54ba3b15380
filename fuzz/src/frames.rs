//! Frames from a byte stream that is cut anywhere, damaged anywhere, and may be no frames at all.
//!
//! Claims: what was written comes out again whatever the cuts; a damaged frame never comes out
//! different from how it went in; a reader is always told to wait for at least one byte more.

use arbitrary::{Arbitrary, Unstructured};
use bytes::{Bytes, BytesMut};
use engine::wire::{Frame, TailCheck, encode, missing_bytes, take_frame, write_frame};

/// A frame to write, and what happens to it on the way.
#[derive(Arbitrary, Debug)]
struct Sent {
    head: Vec<u8>,
    tail: Vec<Vec<u8>>,
    /// A bit to flip, counted from the start of the frame and wrapping at its end.
    flipped_bit: Option<u32>,
}

#[derive(Arbitrary, Debug)]
struct Stream {
    sent: Vec<Sent>,
    /// Bytes of no frame at the end.
    garbage: Vec<u8>,
    /// The lengths of the pieces in which the stream arrives, used in turn.
    cuts: Vec<u8>,
}

/// One run over the fuzzer's bytes.
pub fn run(bytes: &[u8]) {
    let Ok(stream) = Stream::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let mut wire = Vec::new();
    let mut expected = Vec::new();
    let mut is_damaged = false;
    for sent in &stream.sent {
        expected.push(write(sent, &mut wire));
        is_damaged |= sent.flipped_bit.is_some();
    }
    wire.extend_from_slice(&stream.garbage);

    let (received, failed) = read(&wire, &stream.cuts);
    for (ordinal, (received, expected)) in received.iter().zip(&expected).enumerate() {
        assert_eq!(received, expected, "frame {ordinal} came out different from how it went in");
    }
    if !is_damaged {
        assert!(received.len() >= expected.len(), "an intact frame did not come out");
        assert!(!failed || !stream.garbage.is_empty(), "intact frames were refused");
    }
}

/// Appends the frame to the wire, damage done, and returns it as it should come out.
fn write(sent: &Sent, wire: &mut Vec<u8>) -> Frame {
    let tail: Vec<Bytes> = sent.tail.iter().cloned().map(Bytes::from).collect();
    let mut out = BytesMut::new();
    write_frame(&mut out, &sent.head, &tail, TailCheck::Frame);
    if let Some(bit) = sent.flipped_bit {
        let bit = bit as usize % (out.len() * 8);
        out[bit / 8] ^= 1 << (bit % 8);
    }
    wire.extend_from_slice(&out);
    Frame { head: encode(&sent.head).into(), tail: tail.concat().into() }
}

/// What a connection's reader makes of the wire: the frames, and whether it gave up at the end.
fn read(wire: &[u8], cuts: &[u8]) -> (Vec<Frame>, bool) {
    let mut cuts = cuts.iter().map(|cut| usize::from(*cut).max(1)).cycle();
    let mut rest = wire;
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (piece, later) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
        rest = later;
        buffer.extend_from_slice(piece);
        loop {
            let before = buffer.len();
            match take_frame(&mut buffer) {
                Ok(Some(frame)) => {
                    assert!(buffer.len() < before, "a frame was taken and nothing left the buffer");
                    frames.push(frame);
                }
                Ok(None) => {
                    assert_eq!(buffer.len(), before, "an incomplete frame lost bytes");
                    assert!(missing_bytes(&buffer) > 0, "a reader would wait for nothing");
                    break;
                }
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}
