//! A file system of its own in a file: small, and its power can be cut. Needs root.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use kit::process::finish;

const DEADLINE: Duration = Duration::from_secs(60);

/// `EXT4_IOC_SHUTDOWN` without a flush of the journal: whatever was not synced is forgotten, file
/// data as well as directory entries. Rust has no safe way to say it.
const SWITCH: &str = "\
import fcntl, os, struct, sys
folder = os.open(sys.argv[1], 0)
print('ready', flush=True)
sys.stdin.readline()
fcntl.ioctl(folder, 0x8004587D, struct.pack('I', 2))
print('dark', flush=True)
";

/// A mounted ext4 in a file.
pub(crate) struct SmallDisk {
    image: PathBuf,
    mounted: PathBuf,
}

impl SmallDisk {
    /// Makes and mounts it; mkfs rounds the number of inodes up.
    pub(crate) fn mount(place: &Path, bytes: u64, inodes: u32) -> Self {
        let (image, mounted) = (place.join("image"), place.join("disk"));
        File::create(&image).unwrap().set_len(bytes).unwrap();
        std::fs::create_dir(&mounted).unwrap();
        let inodes = inodes.to_string();
        tool("mkfs.ext4", &["-q", "-m", "0", "-N", &inodes], &[&image]);
        let disk = Self { image, mounted };
        disk.mount_image();
        disk
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mounted
    }

    /// Inodes and bytes that are free.
    pub(crate) fn free(&self) -> (u64, u64) {
        let space = rustix::fs::statvfs(&self.mounted).unwrap();
        (space.f_ffree, space.f_bfree * space.f_frsize)
    }

    /// Makes its power ready to be cut at once.
    pub(crate) fn switch(&self) -> Switch {
        // Debian's own interpreter; the standard library does.
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", SWITCH])
            .arg(&self.mounted)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        let mut switch = Switch { child, said };
        switch.hears("ready\n");
        switch
    }

    /// Gives it power again; nobody may use it at that moment.
    pub(crate) fn power_on(&self) {
        tool("umount", &[], &[&self.mounted]);
        self.mount_image();
    }

    fn mount_image(&self) {
        // The journal is written when somebody syncs, and not every few seconds anyway.
        let options = ["-o", "loop,commit=600"];
        tool("mount", &options, &[&self.image, &self.mounted]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, as the box may still be ending when a test has failed.
        let mut command = Command::new("umount");
        command.arg("--lazy").arg(&self.mounted);
        let _ = finish(command, DEADLINE);
    }
}

/// Cuts the power of a disk.
pub(crate) struct Switch {
    child: Child,
    said: BufReader<std::process::ChildStdout>,
}

impl Switch {
    /// Returns when the disk is dark.
    pub(crate) fn cut(&mut self) {
        let stdin = self.child.stdin.as_mut().unwrap();
        stdin.write_all(b"\n").unwrap();
        self.hears("dark\n");
        assert!(self.child.wait().unwrap().success());
    }

    fn hears(&mut self, word: &str) {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line, word);
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(program: &str, words: &[&str], paths: &[&Path]) {
    let mut command = Command::new(program);
    command.args(words).args(paths);
    finish(command, DEADLINE).unwrap().success().unwrap();
}
