//! The log on disk: frames in segments, the last one written, the one after it made ahead of need.
//!
//! Rules:
//! - A frame is written with one write and synced before the next one is: after a crash at most the last frame is torn.
//! - So what does not open at the log's end was never answered, and is passed over; if a frame opens behind it, or the
//!   database has seen a later one, it was damaged, and that is an error.
//! - Every segment's first frame says whom this member votes for and how far the log was purged: what is in front of the first
//!   entry that is left can go, whole segments at a time.
//! - A segment of which no entry is left is overwritten with zeros before it is removed; its first sector goes first, so that
//!   a segment without it is one that was given up (in front), or was made ahead of need (behind).
//! - Secrets that must go take all they came with: what is left of the log is written again, in a new segment, in the same
//!   frame as the purge; every segment before it holds nothing that is left then.
//!
//! ```text
//! log-3  0000 00|...        was given up: being overwritten
//! log-4  [vote, purged, entry 50][entry 51]··
//! log-5  [vote, purged, entry 52, entry 53][entry 54]~torn~
//! log-6  00000000000        made ahead of need
//! ```

use super::frame::{self, Plain, Record};
use super::segment::{Place, Segment, Zeroing};
use super::{Done, Row, StoreError};
use crate::disk::Medium;
use crate::seal::{Opener, Sealer};
use redb::StorageBackend;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of a segment: what is written ahead of need, and what a small log takes on disk.
pub(super) const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// The writing end; there is one.
pub(super) struct Log<M> {
    place: Place<M>,
    segment_bytes: u64,
    index: Index,
    /// Oldest first; the last one is written.
    segments: VecDeque<Segment>,
    /// Where the next frame goes in it.
    at: u64,
    /// The segment after the last one.
    next: Option<Zeroing>,
    given_up: VecDeque<Zeroing>,
    /// Who waits until nothing is left of what was given up.
    waiting: Vec<Done>,
}

/// Where each entry lies. Clones share it; reading holds its lock, so that nobody reads what is overwritten.
#[derive(Clone)]
pub(super) struct Index {
    opener: Arc<Opener>,
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    /// Index of the first entry in `at`.
    first: u64,
    at: VecDeque<Spot>,
    vote: Option<Vec<u8>>,
    purged: Option<(u64, Vec<u8>)>,
    segments: BTreeMap<u32, (Arc<dyn StorageBackend>, PathBuf)>,
    /// The last frame on disk.
    number: u64,
}

/// Where a frame lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    segment: u32,
    at: u64,
    bytes: usize,
}

impl<M: Medium> Log<M> {
    /// Makes a log; what lies in its place is replaced.
    pub(super) fn create(
        place: Place<M>,
        segment_bytes: u64,
        opener: Arc<Opener>,
        sealer: &mut Sealer,
    ) -> Result<Self, StoreError> {
        for number in place.numbers()? {
            place.remove(&place.path(number))?;
        }
        let mut log = Self::empty(place, segment_bytes, opener);
        log.begin(0)?;
        log.append(sealer, &Plain::with_room(0, 0))?;
        Ok(log)
    }

    /// Reads a log. `seen` is the last frame that the database knows of.
    pub(super) fn open(
        place: Place<M>,
        segment_bytes: u64,
        opener: Arc<Opener>,
        seen: u64,
    ) -> Result<Self, StoreError> {
        let numbers = place.numbers()?;
        let mut log = Self::empty(place, segment_bytes, opener);
        let mut last = None;
        let mut before = None;
        for number in numbers {
            let segment = log.place.open(number)?;
            if before.is_some_and(|before: u32| before.checked_add(1) != Some(number)) {
                return Err(StoreError::damaged(&segment.path, "the segment of the log before it is missing"));
            }
            before = Some(number);
            let bytes = segment.read()?;
            if last.is_none() && bytes.iter().take(frame::SECTOR).all(|byte| *byte == 0) {
                log.given_up.push_back(Zeroing::new(segment));
                continue;
            }
            let end = log.replay(&segment, &bytes, &mut last)?;
            if end > 0 {
                log.at = end;
                log.segments.push_back(segment);
            } else if log.next.is_none() && last.is_some() {
                log.next = Some(Zeroing::new(segment));
            } else {
                return Err(StoreError::damaged(&segment.path, "a segment of the log does not begin with a frame"));
            }
        }
        let (Some((spot, bytes)), Some(segment)) = (last, log.segments.back()) else {
            return Err(StoreError::damaged(&log.place.path(1), "the log is gone"));
        };
        let number = log.index.number();
        if number < seen {
            let what = format!("it ends with frame {number}, but frame {seen} was written");
            return Err(StoreError::damaged(&segment.path, what));
        }
        if !log.given_up.is_empty() {
            log.index.lock().is_whole().map_err(|what| StoreError::damaged(&segment.path, what))?;
        }
        // A process that was killed may have left it in the page cache, and one whose sync failed in a cache that takes it
        // for written: it is written again before anybody relies on it.
        let again = segment.file.write(spot.at, &bytes).and_then(|()| segment.file.sync_data());
        again.map_err(|source| StoreError::io(&segment.path, "write", source))?;
        log.give_up();
        // A crash may have come while secrets were overwritten.
        while !log.given_up.is_empty() {
            log.tidy()?;
        }
        Ok(log)
    }

    fn empty(place: Place<M>, segment_bytes: u64, opener: Arc<Opener>) -> Self {
        Self {
            place,
            segment_bytes,
            index: Index { opener, content: Arc::default() },
            segments: VecDeque::new(),
            at: 0,
            next: None,
            given_up: VecDeque::new(),
            waiting: Vec::new(),
        }
    }

    /// Takes the frames of a segment, and gives the place behind them. `last` is the last frame of the log so far.
    fn replay(
        &mut self,
        segment: &Segment,
        bytes: &[u8],
        last: &mut Option<(Spot, Vec<u8>)>,
    ) -> Result<u64, StoreError> {
        let opener = self.index.opener.clone();
        let damaged = |what: &str| StoreError::damaged(&segment.path, what);
        let mut here = 0;
        let mut content = self.index.lock();
        content.segments.insert(segment.number, (segment.file.clone(), segment.path.clone()));
        while let Some(rest) = bytes.get(here..) {
            let wanted = last.is_some().then_some(content.number.saturating_add(1));
            let opened =
                frame::open(&opener, rest, wanted).map_err(|source| StoreError::seal(&segment.path, source))?;
            let Some(frame) = opened else { break };
            let spot = Spot { segment: segment.number, at: here as u64, bytes: frame.bytes };
            content.take(spot, &frame.plain).map_err(damaged)?;
            content.number = frame.number;
            *last = Some((spot, rest.get(..frame.bytes).unwrap_or(rest).to_vec()));
            here = here.saturating_add(frame.bytes);
        }
        for behind in (here..bytes.len()).step_by(frame::SECTOR) {
            let frame = frame::open(&opener, bytes.get(behind..).unwrap_or_default(), None);
            if frame.is_ok_and(|frame| frame.is_some_and(|frame| frame.number > content.number)) {
                return Err(damaged(&format!("frame {} of the log cannot be read", content.number.saturating_add(1))));
            }
        }
        Ok(here as u64)
    }

    /// Who waits until nothing is left of what was given up.
    pub(super) fn into_waiting(self) -> Vec<Done> {
        self.waiting
    }

    /// The reading end.
    pub(super) fn index(&self) -> Index {
        self.index.clone()
    }

    /// Writes a frame and syncs it.
    pub(super) fn write(&mut self, sealer: &mut Sealer, plain: &Plain) -> Result<(), StoreError> {
        let room = self.segments.back().map_or(0, |segment| segment.bytes.saturating_sub(self.at));
        if frame::bytes(plain.len()) as u64 <= room {
            self.append(sealer, plain)?;
        } else {
            let opening = self.index.opening(None, plain)?;
            self.begin(frame::bytes(opening.len()) as u64)?;
            self.append(sealer, &opening)?;
        }
        self.give_up();
        Ok(())
    }

    /// The same, for a frame that purges up to this index: nothing is left then of what was in front of it. `done` is called when
    /// all of that is overwritten.
    pub(super) fn forget(
        &mut self,
        sealer: &mut Sealer,
        plain: &Plain,
        upto: u64,
        done: Done,
    ) -> Result<(), StoreError> {
        self.waiting.push(done);
        let opening = self.index.opening(Some(upto), plain)?;
        self.begin(frame::bytes(opening.len()) as u64)?;
        self.append(sealer, &opening)?;
        self.give_up();
        Ok(())
    }

    fn append(&mut self, sealer: &mut Sealer, plain: &Plain) -> Result<(), StoreError> {
        let Some(segment) = self.segments.back() else {
            return Err(StoreError::damaged(&self.place.path(1), "the log is gone"));
        };
        let number = self.index.number().saturating_add(1);
        let bytes = frame::seal(sealer, number, plain).map_err(|source| StoreError::seal(&segment.path, source))?;
        let written = segment.file.write(self.at, &bytes).and_then(|()| segment.file.sync_data());
        written.map_err(|source| StoreError::io(&segment.path, "write", source))?;
        let spot = Spot { segment: segment.number, at: self.at, bytes: bytes.len() };
        self.at += bytes.len() as u64;
        let mut content = self.index.lock();
        content.number = number;
        content.take(spot, plain).map_err(|what| StoreError::damaged(&segment.path, what))
    }

    /// From now on the next segment is written; it has room for so many bytes at least.
    fn begin(&mut self, bytes: u64) -> Result<(), StoreError> {
        if self.next.as_ref().is_none_or(|next| next.segment.bytes < bytes) {
            self.prepare(bytes)?;
        }
        while let Some(next) = &mut self.next
            && !next.is_done()
        {
            next.go_on()?;
        }
        if let Some(Zeroing { segment, .. }) = self.next.take() {
            self.index.lock().segments.insert(segment.number, (segment.file.clone(), segment.path.clone()));
            self.segments.push_back(segment);
            self.at = 0;
        }
        Ok(())
    }

    fn prepare(&mut self, bytes: u64) -> Result<(), StoreError> {
        let last = self.segments.back().map_or(0, |segment| segment.number);
        let number = last
            .checked_add(1)
            .ok_or_else(|| StoreError::damaged(&self.place.path(last), "the numbers of segments are used up"))?;
        self.next = Some(Zeroing::new(self.place.make(number, bytes.max(self.segment_bytes))?));
        Ok(())
    }

    /// Segments of which no entry is left are in nobody's way any more.
    fn give_up(&mut self) {
        let mut content = self.index.lock();
        let first = content.at.front().map(|spot| spot.segment);
        while self.segments.len() > 1
            && let Some(front) = self.segments.front()
            && first.is_none_or(|first| front.number < first)
        {
            content.segments.remove(&front.number);
            self.given_up.extend(self.segments.pop_front().map(Zeroing::new));
        }
    }

    /// Whether [`tidy`](Self::tidy) has something to do.
    pub(super) fn is_untidy(&self) -> bool {
        let ahead = match &self.next {
            Some(next) => !next.is_done(),
            None => self.is_half_full(),
        };
        ahead || !self.given_up.is_empty() || !self.waiting.is_empty()
    }

    /// Who waited until nothing is left of what was given up, once that is so.
    pub(super) fn rid(&mut self) -> Vec<Done> {
        if self.given_up.is_empty() { std::mem::take(&mut self.waiting) } else { Vec::new() }
    }

    fn is_half_full(&self) -> bool {
        self.segments.back().is_some_and(|segment| self.at > segment.bytes / 2)
    }

    /// A piece of the work that nobody waits for: it goes on between two frames. False: there is none.
    pub(super) fn tidy(&mut self) -> Result<bool, StoreError> {
        if let Some(first) = self.given_up.front_mut() {
            first.go_on()?;
            if first.is_done() {
                let path = first.segment.path.clone();
                self.given_up.pop_front();
                self.place.remove(&path)?;
            }
        } else if let Some(next) = &mut self.next {
            if next.is_done() {
                return Ok(false);
            }
            next.go_on()?;
        } else if self.is_half_full() {
            self.prepare(0)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }
}

impl Index {
    fn lock(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last frame on disk.
    pub(super) fn number(&self) -> u64 {
        self.lock().number
    }

    pub(super) fn vote(&self) -> Option<Vec<u8>> {
        self.lock().vote.clone()
    }

    /// The mark of the last purge.
    pub(super) fn purged(&self) -> Option<Vec<u8>> {
        self.lock().purged.as_ref().map(|(_, mark)| mark.clone())
    }

    /// How far the log was purged, and the mark that says so.
    pub(super) fn purge(&self) -> Option<(u64, Vec<u8>)> {
        self.lock().purged.clone()
    }

    pub(super) fn last_entry(&self) -> Option<u64> {
        self.lock().last()
    }

    /// The first and the last entry on disk.
    pub(super) fn bounds(&self) -> Option<(u64, u64)> {
        let content = self.lock();
        content.last().map(|last| (content.first, last))
    }

    /// The entries in this range that are on disk, in order.
    pub(super) fn entries(&self, range: RangeInclusive<u64>) -> Result<Vec<Row>, StoreError> {
        self.lock().entries(&self.opener, range)
    }

    /// How each frame on disk that holds an entry begins where it is sealed, and as no other does.
    #[cfg(test)]
    pub(super) fn begins(&self) -> Vec<[u8; 13]> {
        let content = self.lock();
        let begin = |spot: &Spot| {
            let mut begin = [0; 13];
            content.segments[&spot.segment].0.read(spot.at + 16, &mut begin).unwrap();
            begin
        };
        content.at.iter().map(begin).collect()
    }

    /// What the first frame of a segment holds: vote, purge mark, then its own records. With `forget` (an index) all the
    /// entries behind that one too.
    fn opening(&self, forget: Option<u64>, plain: &Plain) -> Result<Plain, StoreError> {
        let content = self.lock();
        let kept = match forget {
            Some(upto) => content.entries(&self.opener, upto.saturating_add(1)..=u64::MAX)?,
            None => Vec::new(),
        };
        let kept: Vec<(u64, zeroize::Zeroizing<Vec<u8>>)> =
            kept.into_iter().map(|(index, entry)| (index, entry.into())).collect();
        let marks = content.vote.iter().map(Vec::len).chain(content.purged.iter().map(|(_, mark)| mark.len()));
        let bytes = marks.chain(kept.iter().map(|(_, entry)| entry.len())).sum::<usize>() + plain.len();
        let mut opening = Plain::with_room(3 + kept.len(), bytes);
        if let Some(vote) = &content.vote {
            opening.push(Record::Vote(vote));
        }
        if let Some((index, mark)) = &content.purged {
            opening.push(Record::PurgeThrough(*index, mark));
        }
        if forget.is_some() {
            // Of the segments in front of it the first ones may be gone, and the last ones not.
            opening.push(Record::TruncateFrom(0));
        }
        for (index, entry) in &kept {
            opening.push(Record::Entry(*index, entry));
        }
        opening.extend(plain);
        Ok(opening)
    }
}

impl Content {
    fn last(&self) -> Option<u64> {
        let entries = u64::try_from(self.at.len()).ok().filter(|entries| *entries > 0)?;
        Some(self.first.saturating_add(entries - 1))
    }

    /// Whether its first entry is the one behind the purge mark.
    fn is_whole(&self) -> Result<(), &'static str> {
        let first = self.purged.as_ref().map_or(0, |(index, _)| index.saturating_add(1));
        if self.at.is_empty() || self.first == first {
            return Ok(());
        }
        Err("the log in front of it is missing")
    }

    fn position(&self, index: u64) -> usize {
        usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX).min(self.at.len())
    }

    /// What a frame changes.
    fn take(&mut self, spot: Spot, plain: &Plain) -> Result<(), &'static str> {
        for record in plain.records() {
            match record? {
                Record::Entry(index, _) => {
                    if self.at.is_empty() {
                        self.first = index;
                    }
                    let end = self.first.saturating_add(self.at.len() as u64);
                    match self.at.get_mut(usize::try_from(index.saturating_sub(self.first)).unwrap_or(usize::MAX)) {
                        Some(at) if index >= self.first => *at = spot,
                        None if index == end => self.at.push_back(spot),
                        _ => return Err("an entry of the log is missing"),
                    }
                }
                Record::Vote(vote) => self.vote = Some(vote.to_vec()),
                Record::TruncateFrom(index) => self.at.truncate(self.position(index)),
                Record::PurgeThrough(index, mark) => {
                    let position = self.position(index.saturating_add(1));
                    self.at.drain(..position);
                    self.first = self.first.saturating_add(position as u64);
                    self.purged = Some((index, mark.to_vec()));
                }
            }
        }
        Ok(())
    }

    fn entries(&self, opener: &Opener, range: RangeInclusive<u64>) -> Result<Vec<Row>, StoreError> {
        let from = self.position(*range.start());
        let upto = self.position(range.end().saturating_add(1)).max(from);
        let mut index = self.first.saturating_add(from as u64);
        let mut rows: Vec<Row> = Vec::with_capacity(upto - from);
        let mut spots = self.at.range(from..upto).copied().peekable();
        while let Some(spot) = spots.next() {
            let mut end = index;
            while spots.next_if_eq(&spot).is_some() {
                end = end.saturating_add(1);
            }
            self.frame(opener, spot, index..=end, &mut rows)?;
            index = end.saturating_add(1);
        }
        Ok(rows)
    }

    /// Adds these entries, which all lie in one frame.
    fn frame(
        &self,
        opener: &Opener,
        spot: Spot,
        range: RangeInclusive<u64>,
        rows: &mut Vec<Row>,
    ) -> Result<(), StoreError> {
        let Some((file, path)) = self.segments.get(&spot.segment) else {
            return Err(StoreError::damaged(&PathBuf::from("log"), format!("segment {} is gone", spot.segment)));
        };
        let mut bytes = vec![0; spot.bytes];
        file.read(spot.at, &mut bytes).map_err(|source| StoreError::io(path, "read", source))?;
        let opened = frame::open(opener, &bytes, None).map_err(|source| StoreError::seal(path, source))?;
        let damaged = |what: String| StoreError::damaged(path, what);
        let frame = opened.ok_or_else(|| damaged(format!("the frame at {} cannot be read", spot.at)))?;
        // If one frame holds an entry twice, the later one counts.
        let mut found: BTreeMap<u64, &[u8]> = BTreeMap::new();
        for record in frame.plain.records() {
            match record.map_err(|what| damaged(what.into()))? {
                Record::Entry(index, entry) if range.contains(&index) => drop(found.insert(index, entry)),
                _ => {}
            }
        }
        for index in range {
            let entry = found.get(&index).ok_or_else(|| damaged(format!("log entry {index} is missing")))?;
            rows.push((index, entry.to_vec()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
