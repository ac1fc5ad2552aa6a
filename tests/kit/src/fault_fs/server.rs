//! Answers what the kernel asks.

use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::disk::{Body, CAPACITY_BYTES, Content, Disk, Entries, Node};

/// How long the kernel may believe what it was told; nobody else changes anything.
const BELIEVED: Duration = Duration::from_secs(3600);
const BLOCK_BYTES: u32 = 4096;
const NAME_BYTES_MAX: u32 = 255;
const NODES_MAX: u64 = 1 << 20;

/// The type of a file within a mode, and that of a socket.
const TYPE_BITS: u32 = 0o170_000;
const SOCKET: u32 = 0o140_000;
const REGULAR: u32 = 0o100_000;
const PERMISSIONS: u32 = 0o7777;

/// `FALLOC_FL_KEEP_SIZE`.
const KEEP_SIZE: i32 = 1;

/// Locks are kept by the kernel, as no other machine sees this file system.
pub(super) struct Server(pub(super) Arc<Mutex<Disk>>);

impl Server {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attr(&self, number: u64) -> Result<FileAttr, Errno> {
        let disk = self.disk();
        disk.node(number).map(|node| attr(number, node))
    }

    fn make(&self, req: &Request, at: (INodeNo, &OsStr), body: Body, mode: u32) -> Answer {
        let (folder, name) = at;
        let mut disk = self.disk();
        let owner = (req.uid(), req.gid());
        let number = disk.create(folder.0, name, body, mode & PERMISSIONS, owner)?;
        disk.node(number).map(|node| attr(number, node))
    }
}

type Answer = Result<FileAttr, Errno>;

fn attr(number: u64, node: &Node) -> FileAttr {
    let (kind, size, nlink) = match &node.body {
        Body::File(content) => (FileType::RegularFile, content.seen.len() as u64, 1),
        Body::Folder(_) => (FileType::Directory, 0, 2),
        Body::Socket => (FileType::Socket, 0, 1),
    };
    FileAttr {
        ino: INodeNo(number),
        size,
        blocks: size.div_ceil(512),
        atime: node.modified,
        mtime: node.modified,
        ctime: node.modified,
        crtime: node.modified,
        kind,
        perm: u16::try_from(node.meta.mode & PERMISSIONS).unwrap_or_default(),
        nlink,
        uid: node.meta.uid,
        gid: node.meta.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

fn entry(reply: ReplyEntry, answer: Answer) {
    match answer {
        Ok(attr) => reply.entry(&BELIEVED, &attr, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, answer: Result<(), Errno>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let disk = self.disk();
        let found = disk
            .entry(parent.0, name)
            .and_then(|number| Ok(attr(number, disk.node(number)?)));
        entry(reply, found);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino.0) {
            Ok(attr) => reply.attr(&BELIEVED, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.disk();
        let done = (|| {
            let mut meta = disk.node(ino.0)?.meta;
            meta.mode = mode.map_or(meta.mode, |mode| mode & PERMISSIONS);
            meta.uid = uid.unwrap_or(meta.uid);
            meta.gid = gid.unwrap_or(meta.gid);
            disk.set_meta(ino.0, meta)?;
            if let Some(size) = size {
                disk.resize(ino.0, size)?;
            }
            disk.node(ino.0).map(|node| attr(ino.0, node))
        })();
        match done {
            Ok(attr) => reply.attr(&BELIEVED, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let body = match mode & TYPE_BITS {
            SOCKET => Body::Socket,
            REGULAR => Body::File(Content::default()),
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        entry(reply, self.make(req, (parent, name), body, mode & !umask));
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let body = Body::Folder(Entries::default());
        entry(reply, self.make(req, (parent, name), body, mode & !umask));
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let body = Body::File(Content::default());
        match self.make(req, (parent, name), body, mode & !umask) {
            Ok(attr) => reply.created(
                &BELIEVED,
                &attr,
                Generation(0),
                FileHandle(0),
                FopenFlags::FOPEN_KEEP_CACHE,
            ),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.attr(ino.0) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.attr(ino.0) {
            Ok(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.disk().unlink(parent.0, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.disk().remove_folder(parent.0, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !(flags - RenameFlags::RENAME_NOREPLACE).is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let done = self
            .disk()
            .rename((parent.0, name), (newparent.0, newname), replace);
        empty(reply, done);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk().file(ino.0) {
            Ok(content) => {
                let bytes = &content.seen;
                let from = usize::try_from(offset).map_or(bytes.len(), |at| at.min(bytes.len()));
                let upto = bytes.len().min(from + size as usize);
                reply.data(&bytes[from..upto]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = u32::try_from(data.len()).map_err(|_| Errno::EFBIG);
        let done = written.and_then(|written| {
            self.disk().write(ino.0, offset, data)?;
            Ok(written)
        });
        match done {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut disk = self.disk();
        let end = offset.saturating_add(length);
        let done = match (mode, disk.file(ino.0).map(|file| file.seen.len() as u64)) {
            (_, Err(error)) => Err(error),
            (0, Ok(bytes)) if bytes < end => disk.resize(ino.0, end),
            (0 | KEEP_SIZE, Ok(_)) => Ok(()),
            _ => Err(Errno::EOPNOTSUPP),
        };
        empty(reply, done);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        empty(reply, self.disk().lit());
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, datasync: bool, reply: ReplyEmpty) {
        empty(reply, self.disk().sync(ino.0, datasync));
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(reply, self.disk().sync_folder(ino.0));
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let disk = self.disk();
        let entries = match disk.folder(ino.0) {
            Ok(entries) => entries,
            Err(error) => return reply.error(error),
        };
        // A place in the list is a node's number, so that it stays when others are removed.
        let mut entries: Vec<_> = entries.seen.iter().map(|(name, n)| (*n, name)).collect();
        entries.sort_unstable();
        for (number, name) in entries.into_iter().filter(|(number, _)| *number > offset) {
            let kind = disk.node(number).map(|node| attr(number, node).kind);
            if kind.is_ok_and(|kind| reply.add(INodeNo(number), number, kind, name)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let disk = self.disk();
        if let Err(error) = disk.lit() {
            return reply.error(error);
        }
        let blocks = |bytes: u64| bytes / u64::from(BLOCK_BYTES);
        let free = blocks(CAPACITY_BYTES.saturating_sub(disk.used_bytes()));
        reply.statfs(
            blocks(CAPACITY_BYTES),
            free,
            free,
            NODES_MAX,
            NODES_MAX,
            BLOCK_BYTES,
            NAME_BYTES_MAX,
            BLOCK_BYTES,
        );
    }
}
