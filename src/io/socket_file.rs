//! A unix socket in the file system, from its first to its last moment: it takes the place of one that a dead server left,
//! and of nothing else; it may be connected to by whom its mode says, from the start; it goes with its server. No
//! symbolic link is followed. Called by `listener` and, for the API's socket, by `server`.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};

/// How long another server may take to bind in the same folder.
const FOLDER_PATIENCE: Duration = Duration::from_secs(5);
const FOLDER_RETRY: Duration = Duration::from_millis(10);

/// How long the socket of a server that has just died may still seem to be listened on, and how often it is tried again:
/// the kernel tears an io_uring down some milliseconds after its process.
const DEAD_PATIENCE: Duration = Duration::from_millis(500);
const DEAD_RETRY: Duration = Duration::from_millis(50);

/// The file of a socket that this server listens on. It is removed with this, unless another file has its name by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Listens on `path`. Of servers that start at the same time only one has it.
    ///
    /// # Errors
    /// When a server that lives listens there, when there is another file than a socket, or when the kernel refuses.
    pub(crate) fn listen(path: &Path, mode: u32, backlog: i32) -> io::Result<(UnixListener, Self)> {
        // Between the look at what is there and the new socket's first `listen` no other server looks.
        let _folder = lock_folder(path)?;
        let started = Instant::now();
        while let Err(error) = make_way(path) {
            if error.kind() != io::ErrorKind::AddrInUse || started.elapsed() > DEAD_PATIENCE {
                return Err(error);
            }
            std::thread::sleep(DEAD_RETRY);
        }
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        // The kernel makes the file with the socket's own mode, so nobody comes in before the mode is what it should be.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        socket.bind(&SockAddr::unix(path)?)?;
        let meta = fs::symlink_metadata(path)?;
        let file = Self { path: path.to_owned(), device: meta.dev(), inode: meta.ino() };
        let found = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::from_raw_mode(mode))?;
        socket.listen(backlog)?;
        Ok((socket.into(), file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let is_ours = |meta: Metadata| (meta.dev(), meta.ino()) == (self.device, self.inode);
        if fs::symlink_metadata(&self.path).is_ok_and(is_ours)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file can't be removed");
        }
    }
}

/// Keeps other servers from binding in the same folder, as long as what is returned lives.
fn lock_folder(path: &Path) -> io::Result<File> {
    let folder = File::open(path.parent().unwrap_or(Path::new("/")))?;
    let started = Instant::now();
    loop {
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK) if started.elapsed() < FOLDER_PATIENCE => {
                std::thread::sleep(FOLDER_RETRY);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Removes the socket of a server that is gone.
fn make_way(path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !found.file_type().is_socket() {
        return Err(io::Error::other("there is a file that is no socket, which is left alone"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // A server that is busy must not hold this one up.
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // Somebody is there, or too busy to take one more.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
        SocketFile::listen(path, 0o660, 16)
    }

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        for mode in [0o600, 0o660, 0o666] {
            let (listener, file) = SocketFile::listen(&path, mode, 16).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            UnixStream::connect(&path).unwrap();
            drop((listener, file));
            assert!(!path.exists());
        }
    }

    #[test]
    fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, file) = listen(&path).unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        // The server dies without a goodbye: its file stays.
        let _stays = file;
        drop(listener);
        assert!(path.exists());
        let (_listener, _file) = listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn whatever_else_is_there_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (folder.path().join("s"), folder.path().join("t"));
        fs::write(&path, "text").unwrap();
        assert!(listen(&path).unwrap_err().to_string().contains("no socket"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "text");
        // A link to a dead socket, and one to nothing.
        fs::remove_file(&path).unwrap();
        let (listener, _stays) = listen(&elsewhere).unwrap();
        drop(listener);
        for target in [elsewhere.as_path(), Path::new("/nowhere/at/all")] {
            symlink(target, &path).unwrap();
            assert!(listen(&path).unwrap_err().to_string().contains("no socket"));
            assert!(fs::symlink_metadata(&path).unwrap().is_symlink() && elsewhere.exists());
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(listen(Path::new("/nowhere/at/all")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_file_of_a_successor_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, file) = listen(&path).unwrap();
        // It listens no more, and has yet to end.
        rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
        let (_successor, _its_file) = listen(&path).unwrap();
        drop((listener, file));
        UnixStream::connect(&path).unwrap();
    }
}
