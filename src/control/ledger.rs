//! All revocations in force, as the control thread keeps them: with a bound, and, if the configuration names a file,
//! over restarts. The file has a line of JSON for each; it is appended to, and now and then written anew beside itself
//! and renamed. Called by `api` for each request to revoke; `server` opens it before the shards, which get copies.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::auth::{Lifted, Revocation, Revocations};
use crate::config::{ConfigError, open_regular};

/// Lines that a file may have beyond twice those that are needed, before it is written anew.
const SPARE_LINES: usize = 1_024;
/// The largest file that is read: some millions of revocations.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// The longest line: a token id of 256 bytes, each escaped in six, and what stands around it.
const LINE_BYTES_MAX: u64 = 4_096;
const KEY: &str = "auth.revocations_file";

/// The revocations in force, with their file.
#[derive(Debug)]
pub(crate) struct Ledger {
    table: Revocations,
    most: usize,
    journal: Option<Journal>,
}

#[derive(Debug)]
struct Journal {
    path: PathBuf,
    file: File,
    lines: usize,
    /// Something could not be appended: the file is to be written anew.
    behind: bool,
}

/// Why a revocation is not in the ledger, or not in the file.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotKept {
    /// There are as many as there may be; nothing was done.
    #[error("there are as many revocations as limits.revocations allows")]
    Full,
    /// It is in force, and would be lost at a restart.
    #[error("it is in force but could not be written to auth.revocations_file: {0}")]
    NotWritten(io::Error),
}

impl Ledger {
    /// With room for `most`, and what the file holds, if there is to be one.
    ///
    /// # Errors
    /// When the file can't be read or written, or holds something else.
    pub(crate) fn open(path: Option<&Path>, most: usize, now_ms: u64) -> Result<Self, ConfigError> {
        let mut table = Revocations::default();
        let journal = match path {
            None => None,
            Some(path) => {
                let error = |problem: String| ConfigError::of_key(KEY, format!("{}: {problem}", path.display()));
                read(path, &mut table).map_err(error)?;
                table.prune(now_ms);
                let (file, lines) =
                    write_anew(path, &table).map_err(|cause| error(format!("cannot write it: {cause}")))?;
                Some(Journal { path: path.to_owned(), file, lines, behind: false })
            }
        };
        Ok(Self { table, most, journal })
    }

    /// What is in force.
    pub(crate) fn table(&self) -> &Revocations {
        &self.table
    }

    /// How many are in force.
    pub(crate) fn count(&mut self, now_ms: u64) -> usize {
        self.table.prune(now_ms);
        self.table.count()
    }

    /// In a stable order, those behind `after`: a page of at most `most`, and whether there are more.
    pub(crate) fn page(&mut self, after: Option<&Revocation>, most: usize, now_ms: u64) -> (Vec<Revocation>, bool) {
        self.table.prune(now_ms);
        let mut page = self.table.page(after, most + 1);
        let more = page.len() > most;
        page.truncate(most);
        (page, more)
    }

    /// Takes revocations back, in the file too. Returns how many those were.
    ///
    /// # Errors
    /// When the file could not be written: they are lifted, and would be back after a restart.
    pub(crate) fn lift(&mut self, lifted: &Lifted) -> Result<usize, io::Error> {
        let count = self.table.lift(lifted);
        if let Some(journal) = self.journal.as_mut().filter(|_| count > 0) {
            journal.behind = true;
            journal.keep(None, &self.table)?;
        }
        Ok(count)
    }

    /// Adds one.
    ///
    /// # Errors
    /// [`NotKept`].
    pub(crate) fn add(&mut self, revocation: &Revocation, now_ms: u64) -> Result<(), NotKept> {
        if self.table.count() >= self.most {
            self.table.prune(now_ms);
        }
        // What is there already, or takes the place of another, needs no room: tried out on the real thing only then.
        if self.table.count() >= self.most && !self.table.has_room_within(revocation) {
            return Err(NotKept::Full);
        }
        let is_new = self.table.insert(revocation);
        let Some(journal) = &mut self.journal else { return Ok(()) };
        journal.keep(is_new.then_some(revocation), &self.table).map_err(|cause| {
            journal.behind = true;
            NotKept::NotWritten(cause)
        })
    }
}

impl Journal {
    fn keep(&mut self, revocation: Option<&Revocation>, table: &Revocations) -> io::Result<()> {
        if self.behind || self.lines > 2 * table.count() + SPARE_LINES {
            (self.file, self.lines) = write_anew(&self.path, table)?;
            self.behind = false;
        } else if let Some(revocation) = revocation {
            self.file.write_all(&line(revocation)?)?;
            self.file.sync_data()?;
            self.lines += 1;
        }
        Ok(())
    }
}

fn read(path: &Path, table: &mut Revocations) -> Result<(), String> {
    let file = match open_regular(path, FILE_BYTES_MAX) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        file => file.map_err(|error| format!("cannot read it: {error}"))?,
    };
    let mut lines = BufReader::new(file.take(FILE_BYTES_MAX));
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        // One byte more shows that a line is too long.
        let bytes = lines.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut line);
        let is_whole = match bytes.map_err(|error| format!("cannot read it: {error}"))? {
            0 => break,
            bytes if bytes as u64 > LINE_BYTES_MAX => return Err(format!("line {number} is too long")),
            _ => line.ends_with(b"\n"),
        };
        if line.trim_ascii().is_empty() {
            continue;
        }
        match serde_json::from_slice::<Revocation>(&line) {
            // The last line counts without a line end too: only the whole of it is JSON.
            Ok(revocation) => {
                table.insert(&revocation);
            }
            Err(error) if is_whole => return Err(format!("line {number} is no revocation: {error}")),
            // The machine stopped while the line was written. The request for it was never answered.
            Err(_) => tracing::warn!(number, file = %path.display(), "the last revocation was cut off and is left out"),
        }
    }
    Ok(())
}

/// Writes the whole table beside the file and puts it in its place: at no moment is there less than before.
fn write_anew(path: &Path, table: &Revocations) -> io::Result<(File, usize)> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let beside = PathBuf::from(name);
    let mut bytes = Vec::new();
    let mut lines = 0;
    for revocation in table.iter() {
        bytes.extend(line(&revocation)?);
        lines += 1;
    }
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // Whose tokens were revoked is nobody else's business.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok((OpenOptions::new().append(true).open(path)?, lines))
}

fn line(revocation: &Revocation) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(revocation)?;
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Revoked;

    fn of_id(id: &str, until_ms: u64) -> Revocation {
        Revocation { revoked: Revoked::TokenId(id.into()), until_ms }
    }

    fn of_user(key: &str, issued_before_ms: u64) -> Revocation {
        Revocation { revoked: Revoked::User { key: key.into(), issued_before_ms }, until_ms: 1_000 }
    }

    #[test]
    fn a_full_ledger_refuses_what_needs_room_and_forgets_nothing() {
        let mut ledger = Ledger::open(None, 2, 0).unwrap();
        ledger.add(&of_id("a", 100), 0).unwrap();
        ledger.add(&of_user("u", 7), 0).unwrap();
        assert!(matches!(ledger.add(&of_id("b", 100), 0), Err(NotKept::Full)));
        assert!(matches!(ledger.add(&of_user("v", 7), 0), Err(NotKept::Full)));
        // What is there may be said again, or be made to say more.
        ledger.add(&of_id("a", 200), 0).unwrap();
        ledger.add(&of_user("u", 7), 0).unwrap();
        ledger.add(&of_user("u", 9), 0).unwrap();
        assert_eq!(ledger.table().count(), 2);
        // What has expired makes room.
        ledger.add(&of_id("b", 300), 200).unwrap();
        assert_eq!(ledger.table().count(), 2);
        assert_eq!((ledger.count(299), ledger.count(1_000)), (2, 0), "what has expired is not in force");
    }

    #[test]
    fn the_file_brings_them_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revocations");
        let open = |now_ms| Ledger::open(Some(&path), 10, now_ms);
        let mut ledger = open(0).unwrap();
        ledger.add(&of_id("a\n\"", 100), 0).unwrap();
        ledger.add(&of_user("u", 7), 0).unwrap();
        ledger.add(&Revocation { revoked: Revoked::IssuedBefore(5), until_ms: 50 }, 0).unwrap();
        let sorted = |ledger: &Ledger| {
            let mut all: Vec<_> = ledger.table().iter().map(|one| format!("{one:?}")).collect();
            all.sort();
            all
        };
        let before = sorted(&ledger);
        assert_eq!(before.len(), 3);
        assert_eq!(sorted(&open(0).unwrap()), before);
        // A line that was cut off was never acknowledged.
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"{\"revoked\":{\"tok").unwrap();
        assert_eq!(sorted(&open(0).unwrap()), before);
        assert_eq!(open(60).unwrap().table().count(), 2, "what has expired is left out");
        // One that is whole but for its line end counts.
        std::fs::write(&path, "\n{\"revoked\":{\"token_id\":\"h\"},\"until_ms\":100}\r\n\n{\"revoked\":{\"token_id\":\"i\"},\"until_ms\":100}").unwrap();
        assert_eq!(open(0).unwrap().table().count(), 2);
        assert_eq!(open(0).unwrap().table().count(), 2, "it was written anew with both");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(&path, "nonsense\n").unwrap();
        assert!(open(0).unwrap_err().to_string().contains("line 1 is no revocation"));
    }

    #[test]
    fn a_file_that_can_not_be_appended_to_is_written_anew_once_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revocations");
        let mut ledger = Ledger::open(Some(&path), 10, 0).unwrap();
        ledger.journal.as_mut().unwrap().file = OpenOptions::new().append(true).open("/dev/full").unwrap();
        assert!(matches!(ledger.add(&of_id("a", 100), 0), Err(NotKept::NotWritten(_))));
        assert_eq!(ledger.table().count(), 1, "in force all the same");
        ledger.add(&of_id("a", 100), 0).unwrap();
        assert_eq!(Ledger::open(Some(&path), 10, 0).unwrap().table().count(), 1);
    }

    #[test]
    fn what_is_lifted_is_gone_from_the_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revocations");
        let mut ledger = Ledger::open(Some(&path), 10, 0).unwrap();
        let everyone = |before_ms| Revocation { revoked: Revoked::IssuedBefore(before_ms), until_ms: before_ms + 50 };
        for revocation in [of_id("a", 100), of_id("b", 100), of_user("u", 7), of_user("v", 7), everyone(9)] {
            ledger.add(&revocation, 0).unwrap();
        }
        let (page, more) = ledger.page(None, 2, 0);
        assert_eq!((page.as_slice(), more), (&[of_id("a", 100), of_id("b", 100)][..], true));
        let (page, more) = ledger.page(page.last(), 9, 0);
        assert_eq!((page.as_slice(), more), (&[of_user("u", 7), of_user("v", 7), everyone(9)][..], false));
        let user = |key: &str, issued_before_ms| Lifted::User { key: key.into(), issued_before_ms };
        for (lifted, count) in [
            (Lifted::TokenId("a".into()), 1),
            (Lifted::TokenId("a".into()), 0),
            (user("u", Some(8)), 0),
            (user("u", Some(7)), 1),
            (user("v", None), 1),
            (Lifted::IssuedBefore(8), 0),
            (Lifted::IssuedBefore(9), 1),
        ] {
            assert_eq!(ledger.lift(&lifted).unwrap(), count, "{lifted:?}");
        }
        let again = Ledger::open(Some(&path), 10, 0).unwrap();
        assert_eq!(again.table().iter().collect::<Vec<_>>(), [of_id("b", 100)]);
    }

    #[test]
    fn a_file_that_is_none_is_refused_at_once() {
        for path in ["/dev/full", "/dev/zero", "/"] {
            assert!(Ledger::open(Some(Path::new(path)), 10, 0).unwrap_err().to_string().contains(path), "{path}");
        }
    }

    #[test]
    fn the_file_does_not_grow_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revocations");
        let mut ledger = Ledger::open(Some(&path), 10, 0).unwrap();
        for before_ms in 0..3_000 {
            ledger.add(&of_user("u", before_ms), 0).unwrap();
        }
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= SPARE_LINES + 3, "{lines}");
    }
}
