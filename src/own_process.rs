//! Tests that need a process of their own: what they change or measure is everybody's.

use std::process::Command;

/// Runs the test of this name in a process of its own, and gives what it printed to its standard output and error. `None`: this is
/// that process. `limits`: a shell's commands before it.
pub(crate) fn printed(name: &str, limits: &str) -> Option<(String, String)> {
    const CHILD: &str = "ALTA_TEST_IN_OWN_PROCESS";
    if std::env::var_os(CHILD).is_some() {
        return None;
    }
    let output = Command::new("sh")
        .args(["-c", &format!("{limits}\nexec \"$@\""), "sh"])
        .arg(std::env::current_exe().expect("the test program"))
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("a process");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (printed, errors) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success() && printed.contains("1 passed"), "{printed}{errors}");
    Some((printed, errors))
}
