//! What two states must have in common to be the same: their form.
//!
//! The form of a value is its derived `Debug` text, read back as a tree. The compiler writes that
//! text, so no field of the engine can be forgotten, today's or next year's; an id, an instant and a
//! count stand in it under their types. Three things are taken out, each because nothing can depend
//! on it: where time began (instants count from now), how many persists there were before the ones
//! under way, and the random state (the model leaves no choice to it). Every form is digested once
//! for each renaming of the members, for symmetry.
//!
//! Never decides what a state may do. That forms are honest is tested, not believed: see
//! `Catalog::audit`. Next: `catalog` for what has been seen.

use engine::raft::Membership;
use engine::record::RECORD_HEADER_BYTES;
use engine::storage::IoId;
use engine::time::Micros;
use std::fmt::Debug;

/// Most members of a group.
pub(super) const MEMBERS_MAX: usize = 4;
/// Their renamings: 4!.
const RENAMINGS_MAX: usize = 24;
/// Where the members' clocks begin: far above every span, so that the two are told apart.
pub(super) const CLOCK_START: Micros = Micros(1 << 40);
/// Instants further back are alike: nothing is waited for longer than a microsecond.
const PAST_MAX: u64 = 2;

/// All ways to rename the members 1 to n among themselves.
#[derive(Debug)]
pub(super) struct Renamings {
    /// The new name of each old one, at its number less one.
    tables: Vec<[u8; MEMBERS_MAX]>,
}

impl Renamings {
    /// The identity comes first.
    pub(super) fn of(members: usize) -> Self {
        assert!((1..=MEMBERS_MAX).contains(&members));
        let mut tables = vec![[1, 2, 3, 4]];
        // Each table gives rise to those that swap its place `at` with a later one.
        for at in 0..members {
            for table in tables.clone() {
                for other in at + 1..members {
                    let mut swapped = table;
                    swapped.swap(at, other);
                    tables.push(swapped);
                }
            }
        }
        Self { tables }
    }

    pub(super) fn len(&self) -> usize {
        self.tables.len()
    }

    /// The new name of `node`, which is not 0, in one of them.
    pub(super) fn name(&self, renaming: usize, node: u8) -> u8 {
        self.tables[renaming][usize::from(node) - 1]
    }

    /// The new name of `node` in each renaming. 0, which names nobody, stays.
    pub(super) fn names_of(&self, node: u64) -> impl Iterator<Item = u64> + '_ {
        let at = usize::try_from(node).ok().and_then(|node| node.checked_sub(1));
        self.tables
            .iter()
            .map(move |table| at.and_then(|at| table.get(at)).map_or(node, |name| u64::from(*name)))
    }
}

/// One number for two, in order.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0xa076_1d64_78bd_642f) * u128::from(b ^ 0xe703_7ed1_a0b4_28db);
    let folded = (product >> 64) as u64 ^ product as u64;
    // A factor of zero must not swallow the other one.
    folded ^ a.rotate_left(23) ^ b.rotate_left(47)
}

/// A digest for each renaming.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Digests([u64; RENAMINGS_MAX]);

impl Digests {
    const fn same(digest: u64) -> Self {
        Self([digest; RENAMINGS_MAX])
    }

    /// Under the identity.
    pub(super) fn plain(&self) -> u64 {
        self.0[0]
    }

    pub(super) fn under(&self, renaming: usize) -> u64 {
        self.0[renaming]
    }

    fn then(&mut self, next: &Self, renamings: usize) {
        for (digest, next) in self.0.iter_mut().zip(&next.0).take(renamings) {
            *digest = mix(*digest, *next);
        }
    }

    /// Together with `other`, in whichever order.
    fn along(&mut self, other: &Self, renamings: usize) {
        for (digest, other) in self.0.iter_mut().zip(&other.0).take(renamings) {
            *digest = digest.wrapping_add(mix(*other, 0x5f35_6495));
        }
    }
}

/// What a form is taken against.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) renamings: &'a Renamings,
    /// The member's clock.
    pub(super) now: Micros,
    /// The last persist that was reported durable; those before it are forgotten.
    pub(super) durable_io: IoId,
}

impl Frame<'_> {
    /// Digests of the form of `value`.
    pub(super) fn digest(self, value: &impl Debug) -> Digests {
        self.digest_text(&format!("{value:?}"))
    }

    pub(super) fn digest_text(self, text: &str) -> Digests {
        let mut reader = Reader { text: text.as_bytes(), at: 0, frame: self };
        let item = reader.value();
        assert_eq!(reader.at, text.len(), "derived Debug text is read whole: {text}");
        item.digests
    }
}

/// A part of a form.
struct Item {
    digests: Digests,
    /// Whether it begins with a member's id: a list of such is a set or a map of members, whose
    /// order only repeats that of the ids.
    is_by_member: bool,
    /// Whether it is a message in waiting: those that wait for the same persist have no order, and
    /// those that wait for different ones say so themselves.
    is_withheld: bool,
}

impl Item {
    const fn leaf(digest: u64) -> Self {
        Self { digests: Digests::same(digest), is_by_member: false, is_withheld: false }
    }
}

fn digest_bytes(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// The membership in the bytes of a record, as `Debug` shows them.
fn membership_in(text: &[u8]) -> Membership {
    let quoted = text.strip_prefix(b"b\"").and_then(|text| text.strip_suffix(b"\""));
    let mut left = quoted.expect("bytes are shown so").iter().copied();
    let mut bytes = Vec::new();
    while let Some(byte) = left.next() {
        let escaped = if byte == b'\\' { left.next() } else { None };
        bytes.push(match escaped {
            None => byte,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'0') => 0,
            Some(b'x') => {
                let mut digit = || left.next().and_then(|c| char::from(c).to_digit(16));
                let (high, low) = (digit(), digit());
                let byte = high.zip(low).map(|(high, low)| high * 16 + low);
                byte.and_then(|byte| u8::try_from(byte).ok()).expect("two digits")
            }
            Some(other) => other,
        });
    }
    Membership::decode(&bytes[RECORD_HEADER_BYTES..]).expect("encoded by a leader")
}

/// Reads what `derive(Debug)` writes.
struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    frame: Frame<'a>,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> u8 {
        self.text.get(self.at).copied().unwrap_or(0)
    }

    /// Steps over `token` if it comes next.
    fn takes(&mut self, token: &str) -> bool {
        let is_next = self.text[self.at..].starts_with(token.as_bytes());
        if is_next {
            self.at += token.len();
        }
        is_next
    }

    fn value(&mut self) -> Item {
        match self.peek() {
            b'[' => self.list(b']'),
            b'{' => self.list(b'}'),
            b'(' => self.tuple(digest_bytes(b"()"), b')'),
            b'"' => self.string(),
            b'b' if self.text[self.at..].starts_with(b"b\"") => {
                self.at += 1;
                self.string()
            }
            _ => self.named(),
        }
    }

    fn string(&mut self) -> Item {
        let start = self.at;
        self.at += 1;
        while self.peek() != b'"' {
            self.at += if self.peek() == b'\\' { 2 } else { 1 };
            assert!(self.at < self.text.len(), "strings end");
        }
        self.at += 1;
        Item::leaf(digest_bytes(&self.text[start..self.at]))
    }

    fn word(&mut self) -> &'a [u8] {
        let rest = &self.text[self.at..];
        let is_end = |byte: &u8| b",(){}[]: ".contains(byte);
        let len = rest.iter().position(is_end).unwrap_or(rest.len());
        assert!(len > 0, "a word stands at {}", String::from_utf8_lossy(rest));
        self.at += len;
        &rest[..len]
    }

    /// A number, a unit, or what stands in brackets after a name.
    fn named(&mut self) -> Item {
        let name = self.word();
        let is_structure = self.text[self.at..].starts_with(b" {");
        if self.peek() != b'(' && !is_structure {
            return Item::leaf(digest_bytes(name));
        }
        match name {
            b"NodeId" => self.node_id(),
            b"Micros" => {
                let micros = self.only_number();
                Item::leaf(self.instant(micros))
            }
            b"IoId" => {
                let io = self.only_number();
                Item::leaf(mix(2, io.saturating_sub(self.frame.durable_io.0)))
            }
            _ if is_structure => self.structure(name),
            _ => self.tuple(digest_bytes(name), b')'),
        }
    }

    fn only_number(&mut self) -> u64 {
        assert!(self.takes("("));
        let word = std::str::from_utf8(self.word()).expect("Debug text is UTF-8");
        assert!(self.takes(")"));
        word.parse().expect("a newtype around a number")
    }

    fn node_id(&mut self) -> Item {
        let node = self.only_number();
        let mut item = Item { is_by_member: true, ..Item::leaf(0) };
        for (digest, name) in item.digests.0.iter_mut().zip(self.frame.renamings.names_of(node)) {
            *digest = mix(1, name);
        }
        item
    }

    /// Instants count from now, forwards or, no further than anybody looks, backwards.
    fn instant(&self, micros: u64) -> u64 {
        let (now, is_span) = (self.frame.now.0, micros < CLOCK_START.0 / 2 || micros == u64::MAX);
        if is_span {
            return mix(4, micros);
        }
        match micros.checked_sub(now) {
            Some(ahead) => mix(5, ahead),
            None => mix(6, (now - micros).min(PAST_MAX)),
        }
    }

    fn structure(&mut self, name: &[u8]) -> Item {
        assert!(self.takes(" {"));
        let mut item = Item::leaf(digest_bytes(name));
        item.is_withheld = name == b"Withheld";
        // The random state changes with every draw, and every draw here has one outcome.
        let is_random_state = name == b"Xoshiro256PlusPlus";
        let mut is_first = true;
        let start = self.at;
        while !self.takes(" }") {
            assert!(is_first || self.takes(","));
            assert!(self.takes(" "));
            let field = self.word();
            assert!(self.takes(": "));
            let at = self.at;
            let mut value = self.value();
            if name == b"Record" && field == b"bytes" {
                let fields = &self.text[start..at];
                if fields.ends_with(b"kind: Membership, bytes: ") {
                    let membership = membership_in(&self.text[at..self.at]);
                    let digests = self.frame.digest(&membership);
                    item.digests.then(&digests, self.frame.renamings.len());
                }
            }
            // How many ids were given out, in effect, and no member's name.
            if field == b"node_last" {
                value.digests = Digests::same(value.digests.plain());
            }
            let is_left_out = match field {
                // A record's bytes say again what its fields say, under a checksum.
                b"bytes" => name == b"Record",
                // Who has caught up matters to promotions alone, and nobody is promoted here.
                b"catch_up" => true,
                // A leader has followed the membership at the end of every turn.
                b"version" | b"membership_version" => true,
                _ => is_random_state,
            };
            if !is_left_out {
                item.is_by_member |= is_first && value.is_by_member;
                item.digests.then(&value.digests, self.frame.renamings.len());
            }
            is_first = false;
        }
        item
    }

    fn tuple(&mut self, name: u64, end: u8) -> Item {
        let mut item = Item::leaf(name);
        for (at, value) in self.items(end).into_iter().enumerate() {
            item.is_by_member |= at == 0 && value.is_by_member;
            item.digests.then(&value.digests, self.frame.renamings.len());
        }
        item
    }

    fn list(&mut self, end: u8) -> Item {
        let items = self.items(end);
        let is_set =
            items.iter().all(|item| item.is_by_member) || items.iter().all(|item| item.is_withheld);
        let mut list = Item::leaf(mix(3, items.len() as u64));
        for item in &items {
            if is_set {
                list.digests.along(&item.digests, self.frame.renamings.len());
            } else {
                list.digests.then(&item.digests, self.frame.renamings.len());
            }
        }
        list
    }

    /// What stands between here and `end`, with commas; keys of maps count as items of their own
    /// pair.
    fn items(&mut self, end: u8) -> Vec<Item> {
        self.at += 1;
        let mut items = Vec::new();
        while self.peek() != end {
            let mut item = self.value();
            if self.takes(": ") {
                let value = self.value();
                item.digests.then(&value.digests, self.frame.renamings.len());
            }
            items.push(item);
            if !self.takes(", ") {
                assert_eq!(self.peek(), end, "items are separated");
            }
        }
        self.at += 1;
        items
    }
}
