//! What a test needs of the machine and not of the server: programs that may be missing, a kernel that may say no.

use std::io::Write as _;

/// A test can't run without what Debian's `package` has, and is left out. In CI, which installs it (`./check`), that is
/// a failure.
pub fn missing(package: &str, test: &str) {
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "{test}: there is no {package}");
    skipped(test, &format!("there is no {package} here"));
}

/// A test can't run on this machine, whatever is installed: said in CI, too, and past the harness, which keeps to
/// itself what a test that passes prints.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}, since {why}");
}

/// Whether a program is where programs are.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
