//! The only way in which the server reads files, at the start and on a reload: regular files of a bounded size, without
//! waiting. A FIFO, a terminal or a device is an error at once, so that the server neither hangs nor fills its memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// The largest configuration file, key, certificate or list of keys, in bytes.
pub(crate) const FILE_BYTES_MAX: u64 = 4 << 20;

/// Opens a regular file of at most `most` bytes for reading.
///
/// # Errors
/// When the file cannot be opened, is not a regular file, or is larger.
pub(crate) fn open_regular(path: &Path, most: u64) -> io::Result<File> {
    let mut options = OpenOptions::new();
    // NONBLOCK: opening a FIFO would wait for its writer. NOCTTY: a terminal must not become the server's own.
    options.read(true).custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed());
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    if metadata.len() > most {
        return Err(too_large(most));
    }
    Ok(file)
}

/// Reads a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open_regular`], and when the file grows while it is read.
pub(crate) fn read_bytes(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // The size from the file system is not enough: files of /proc report 0 bytes.
    open_regular(path, most)?.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_large(most)) } else { Ok(bytes) }
}

/// Reads a regular file as text. A byte order mark at its beginning is removed.
///
/// # Errors
/// As [`read_bytes`], and when the file is not UTF-8.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    let text = String::from_utf8(read_bytes(path, FILE_BYTES_MAX)?);
    let text = text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

fn too_large(most: u64) -> io::Error {
    io::Error::other(format!("it has more than {most} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("text"), "\u{feff}a\n").unwrap();
        assert_eq!(read_text(&path("text")).unwrap(), "a\n");
        std::os::unix::fs::symlink(path("text"), path("link")).unwrap();
        assert_eq!(read_text(&path("link")).unwrap(), "a\n", "secrets of Kubernetes are links");
        assert_eq!(read_bytes(&path("text"), 5).unwrap().len(), 5);
        assert!(read_bytes(&path("text"), 4).unwrap_err().to_string().contains("more than 4 bytes"));
        assert!(read_bytes(Path::new("/proc/self/status"), 4).unwrap_err().to_string().contains("more than 4"));
        let fifo = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        let socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        for file in ["fifo", "socket", "/dev/zero", "/dev/full", "/dev/null", "/dev/tty", "."] {
            assert!(read_text(&path(file)).is_err(), "{file}");
        }
        assert!(read_text(&path("fifo")).unwrap_err().to_string().contains("not a regular file"));
        drop(socket);
        std::fs::write(path("bytes"), b"\xff").unwrap();
        assert!(read_text(&path("bytes")).unwrap_err().to_string().contains("not UTF-8"));
    }
}
