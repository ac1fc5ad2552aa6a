//! The seal: an age file (age-encryption.org/v1) to one X25519 recipient, the recipient's node key.

use std::io::{self, BufRead, Chain, Cursor, Read, Write};

use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Decryptor, Encryptor, x25519};
use bech32::{Bech32, Hrp};
use identity::{NodeId, NodeKey};
use study::Digest;
use zeroize::Zeroizing;

use crate::format::Refusal;

/// The longest header that is looked at: one recipient takes 200 bytes.
const HEADER_BYTES_MAX: u64 = 4096;
/// What a header's last line begins with.
const LAST_LINE: &[u8] = b"--- ";
/// The nonce behind the header.
const NONCE_BYTES: usize = 16;
/// What an age file begins with.
const MAGIC: &[u8] = b"age-encryption.org/";

/// Bytes that a seal adds to so many bytes, or fewer.
pub(crate) const fn overhead_bytes(bytes: u64) -> u64 {
    1024 + (bytes / (64 << 10) + 1) * 16
}

/// Starts a file that only `recipient` opens; none when the key is nobody's.
pub(crate) fn to<W: Write>(recipient: &NodeId, output: W) -> Option<io::Result<StreamWriter<W>>> {
    let public = recipient.to_x25519()?;
    let written = bech32::encode::<Bech32>(Hrp::parse_unchecked("age"), &public);
    let recipient: x25519::Recipient = written.ok()?.parse().ok()?;
    let recipients = std::iter::once(&recipient as &dyn age::Recipient);
    let encryptor = Encryptor::with_recipients(recipients).ok()?;
    Some(encryptor.wrap_output(output))
}

fn identity(key: &NodeKey) -> x25519::Identity {
    let hrp = Hrp::parse_unchecked("age-secret-key-");
    let written = bech32::encode::<Bech32>(hrp, &*key.x25519_secret());
    let written = Zeroizing::new(written.expect("32 bytes are short enough"));
    written.parse().expect("32 bytes are an identity")
}

/// What is inside a file, while it is read.
pub(crate) type Opened<R> = StreamReader<Chain<Cursor<Vec<u8>>, R>>;

/// A file's first bytes, which no two files have in common: its name, whatever it is called.
pub(crate) fn fingerprint(input: &mut impl BufRead) -> Result<Digest, Refusal> {
    Ok(Digest::of(&header(input)?))
}

/// Opens a file that was sealed to `key`.
pub(crate) fn open<R: BufRead>(key: &NodeKey, mut input: R) -> Result<Opened<R>, Refusal> {
    // Bounded before it is parsed: the parser takes as much as comes.
    let header = Cursor::new(header(&mut input)?);
    let decryptor = Decryptor::new_buffered(header.chain(input)).map_err(refusal)?;
    let identity = identity(key);
    let identities = std::iter::once(&identity as &dyn age::Identity);
    decryptor.decrypt(identities).map_err(refusal)
}

/// Reads exactly the header and the nonce.
fn header(input: &mut impl BufRead) -> Result<Vec<u8>, Refusal> {
    let mut header = Vec::new();
    loop {
        let line = header.len();
        let room = HEADER_BYTES_MAX.saturating_sub(line as u64);
        input.take(room).read_until(b'\n', &mut header)?;
        if !header.starts_with(MAGIC) || !header.ends_with(b"\n") || header.len() == line {
            return Err(Refusal::NotABundle);
        }
        if header[line..].starts_with(LAST_LINE) {
            break;
        }
    }
    let end = header.len() + NONCE_BYTES;
    input.take(NONCE_BYTES as u64).read_to_end(&mut header)?;
    if header.len() == end {
        Ok(header)
    } else {
        Err(Refusal::Torn("it ends in its first bytes".to_owned()))
    }
}

fn refusal(error: DecryptError) -> Refusal {
    if let DecryptError::Io(error) = error {
        error.into()
    } else if let DecryptError::NoMatchingKeys = error {
        Refusal::NotForUs
    } else {
        Refusal::Altered("its seal is broken".to_owned())
    }
}
