//! Command sets (PS3.7 6.3.1): implicit little endian elements of group 0000.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::Answer;

/// A command set longer than this is none; the longest of the standard are a few hundred bytes.
pub(crate) const COMMAND_BYTES_MAX: usize = 16 * 1024;

/// Elements of group 0000 (PS3.7 E.1).
pub(crate) mod element {
    pub(crate) const GROUP_LENGTH: u16 = 0x0000;
    pub(crate) const AFFECTED_SOP_CLASS: u16 = 0x0002;
    pub(crate) const REQUESTED_SOP_CLASS: u16 = 0x0003;
    pub(crate) const COMMAND_FIELD: u16 = 0x0100;
    pub(crate) const MESSAGE_ID: u16 = 0x0110;
    pub(crate) const RESPONDED_MESSAGE_ID: u16 = 0x0120;
    pub(crate) const PRIORITY: u16 = 0x0700;
    pub(crate) const DATA_SET_TYPE: u16 = 0x0800;
    pub(crate) const STATUS: u16 = 0x0900;
    pub(crate) const ERROR_COMMENT: u16 = 0x0902;
    pub(crate) const ERROR_ID: u16 = 0x0903;
    pub(crate) const AFFECTED_SOP_INSTANCE: u16 = 0x1000;
    pub(crate) const REQUESTED_SOP_INSTANCE: u16 = 0x1001;
    pub(crate) const EVENT_TYPE: u16 = 0x1002;
    pub(crate) const ACTION_TYPE: u16 = 0x1008;
}

/// Values of Command Field (0000,0100).
pub(crate) mod field {
    pub(crate) const C_STORE_RQ: u16 = 0x0001;
    pub(crate) const C_FIND_RQ: u16 = 0x0020;
    pub(crate) const C_ECHO_RQ: u16 = 0x0030;
    pub(crate) const N_EVENT_REPORT_RQ: u16 = 0x0100;
    pub(crate) const N_SET_RQ: u16 = 0x0120;
    pub(crate) const N_ACTION_RQ: u16 = 0x0130;
    pub(crate) const N_CREATE_RQ: u16 = 0x0140;
    pub(crate) const C_CANCEL_RQ: u16 = 0x0FFF;
    /// Set in every response.
    pub(crate) const RESPONSE: u16 = 0x8000;
}

/// Command Data Set Type (0000,0800) of a message without a data set.
pub(crate) const NO_DATA_SET: u16 = 0x0101;
/// Command Data Set Type of a message with one; any other value would do as well.
pub(crate) const DATA_SET_FOLLOWS: u16 = 0x0000;
const UID_CHARS_MAX: usize = 64;
/// The longest Error Comment (0000,0902), a LO of the default character set.
const COMMENT_CHARS_MAX: usize = 64;

/// Says that bytes are no command set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(crate) enum CommandError {
    /// An element's header or value is cut off.
    #[error("the command set is cut off")]
    Truncated,
    /// An element of another group.
    #[error("the command set has an element outside of group 0000")]
    ForeignGroup,
}

/// A command set, as element number and value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct CommandSet(BTreeMap<u16, Vec<u8>>);

impl CommandSet {
    /// The response to a request of this command field and message ID.
    pub(crate) fn response_to(
        request: &Self,
        command_field: u16,
        message_id: u16,
        answer: &Answer,
    ) -> Self {
        let mut response = Self::default()
            .with_u16(element::COMMAND_FIELD, command_field | field::RESPONSE)
            .with_u16(element::RESPONDED_MESSAGE_ID, message_id)
            .with_u16(element::DATA_SET_TYPE, NO_DATA_SET)
            .with_u16(element::STATUS, answer.status.0);
        for (affected, requested) in [
            (element::AFFECTED_SOP_CLASS, element::REQUESTED_SOP_CLASS),
            (
                element::AFFECTED_SOP_INSTANCE,
                element::REQUESTED_SOP_INSTANCE,
            ),
        ] {
            let uid = request.text(affected).or_else(|| request.text(requested));
            // What is no UID isn't said again.
            if let Some(uid) = uid.filter(|uid| uid.len() <= UID_CHARS_MAX) {
                response = response.with_uid(affected, uid);
            }
        }
        for echoed in [element::ACTION_TYPE, element::EVENT_TYPE] {
            if let Some(value) = request.u16(echoed) {
                response = response.with_u16(echoed, value);
            }
        }
        if let Some(id) = answer.error_id {
            response = response.with_u16(element::ERROR_ID, id);
        }
        match &answer.comment {
            Some(comment) => response.with_comment(comment),
            None => response,
        }
    }

    /// Says that a data set follows.
    pub(crate) fn announcing_data_set(self) -> Self {
        self.with_u16(element::DATA_SET_TYPE, DATA_SET_FOLLOWS)
    }

    /// Parses a command set; of an element that stands twice the last one counts.
    pub(crate) fn parse(mut bytes: &[u8]) -> Result<Self, CommandError> {
        let mut elements = BTreeMap::new();
        while !bytes.is_empty() {
            let (header, rest) = bytes
                .split_first_chunk::<8>()
                .ok_or(CommandError::Truncated)?;
            let [g0, g1, e0, e1, l0, l1, l2, l3] = *header;
            if u16::from_le_bytes([g0, g1]) != 0 {
                return Err(CommandError::ForeignGroup);
            }
            let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3]))
                .map_err(|_| CommandError::Truncated)?;
            let (value, rest) = rest
                .split_at_checked(length)
                .ok_or(CommandError::Truncated)?;
            elements.insert(u16::from_le_bytes([e0, e1]), value.to_vec());
            bytes = rest;
        }
        Ok(Self(elements))
    }

    /// Encodes the command set, its group length first.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (element, value) in self.0.iter().filter(|(e, _)| **e != element::GROUP_LENGTH) {
            put(&mut body, *element, value);
        }
        let length = u32::try_from(body.len()).expect("command sets of ours are short");
        let mut bytes = Vec::with_capacity(body.len() + 12);
        put(&mut bytes, element::GROUP_LENGTH, &length.to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes
    }

    /// The value of a US element.
    pub(crate) fn u16(&self, element: u16) -> Option<u16> {
        let value = self.0.get(&element)?;
        Some(u16::from_le_bytes(value.as_slice().try_into().ok()?))
    }

    /// The value of a text element, with its padding.
    pub(crate) fn text(&self, element: u16) -> Option<&str> {
        std::str::from_utf8(self.0.get(&element)?).ok()
    }

    /// Says whether a data set follows; so it does unless the command says that it doesn't.
    pub(crate) fn has_data_set(&self) -> bool {
        self.u16(element::DATA_SET_TYPE) != Some(NO_DATA_SET)
    }

    /// Puts a US element.
    pub(crate) fn with_u16(mut self, element: u16, value: u16) -> Self {
        self.0.insert(element, value.to_le_bytes().to_vec());
        self
    }

    /// Puts a UI element.
    pub(crate) fn with_uid(mut self, element: u16, uid: &str) -> Self {
        self.0.insert(element, padded(uid.as_bytes().to_vec(), 0));
        self
    }

    /// Puts an Error Comment (0000,0902): what of `text` is printable ASCII, cut to the length allowed.
    fn with_comment(mut self, text: &str) -> Self {
        let allowed = |c: &char| (' '..='~').contains(c) && *c != '\\';
        let comment: String = text
            .chars()
            .filter(allowed)
            .take(COMMENT_CHARS_MAX)
            .collect();
        self.0
            .insert(element::ERROR_COMMENT, padded(comment.into_bytes(), b' '));
        self
    }
}

fn put(bytes: &mut Vec<u8>, element: u16, value: &[u8]) {
    let length = u32::try_from(value.len()).expect("values of a command set are short");
    bytes.extend_from_slice(&[0, 0]);
    bytes.extend_from_slice(&element.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(value);
}

fn padded(mut value: Vec<u8>, padding: u8) -> Vec<u8> {
    if value.len() % 2 == 1 {
        value.push(padding);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_set_goes_there_and_back() {
        let set = CommandSet::default()
            .with_u16(element::COMMAND_FIELD, field::C_STORE_RQ)
            .with_uid(element::AFFECTED_SOP_CLASS, "1.2.3")
            .with_comment("no room\non the \u{e9} disk");
        let bytes = set.encode();
        let read = CommandSet::parse(&bytes).unwrap();
        assert_eq!(read.u16(element::COMMAND_FIELD), Some(field::C_STORE_RQ));
        assert_eq!(read.text(element::AFFECTED_SOP_CLASS), Some("1.2.3\0"));
        assert_eq!(
            read.text(element::ERROR_COMMENT),
            Some("no roomon the  disk ")
        );
        let length = u32::from_le_bytes(bytes[8..12].try_into().unwrap());
        assert_eq!(length as usize, bytes.len() - 12);
    }

    #[test]
    fn every_cut_of_a_command_set_is_an_error_or_a_shorter_set() {
        let bytes = CommandSet::default()
            .with_u16(element::COMMAND_FIELD, field::C_ECHO_RQ)
            .with_uid(element::AFFECTED_SOP_CLASS, "1.2.3")
            .encode();
        for cut in 0..bytes.len() {
            if let Ok(set) = CommandSet::parse(&bytes[..cut]) {
                assert_eq!(set.u16(element::COMMAND_FIELD), None);
            }
        }
    }

    #[test]
    fn lengths_that_lie_and_other_groups_are_refused() {
        assert_eq!(
            CommandSet::parse(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 1, 0]),
            Err(CommandError::Truncated)
        );
        assert_eq!(
            CommandSet::parse(&[8, 0, 0, 1, 2, 0, 0, 0, 1, 0]),
            Err(CommandError::ForeignGroup)
        );
    }

    #[test]
    fn a_long_comment_is_cut() {
        let set = CommandSet::default().with_comment(&"x".repeat(500));
        assert_eq!(set.text(element::ERROR_COMMENT).map(str::len), Some(64));
    }
}
