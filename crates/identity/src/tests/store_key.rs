//! Store keys' public halves.

use crate::testing::store_key;
use crate::*;

#[test]
fn weak_and_second_ways_to_write_a_public_key_are_refused() {
    // Points of small order, then coordinates that are not reduced.
    for text in [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0900000000000000000000000000000000000000000000000000000000000080",
    ] {
        let refused = text.parse::<StorePublicKey>();
        assert_eq!(refused, Err(StorePublicKeyError::Weak), "{text}");
    }
    let refused = "09".parse::<StorePublicKey>();
    assert_eq!(refused, Err(StorePublicKeyError::NotHex));
    let key = store_key();
    assert_eq!(key.to_string().parse(), Ok(key));
    let cbor = minicbor::to_vec(key).unwrap();
    assert_eq!(minicbor::decode::<StorePublicKey>(&cbor).unwrap(), key);
    let weak = [&cbor[..2], &[0; 32]].concat();
    assert!(minicbor::decode::<StorePublicKey>(&weak).is_err());
}

// Ids stand in files and columns: they never change. Context and input are those of `sealing`'s page.
#[test]
fn an_id_is_the_beginning_of_a_derived_key() {
    let text = "a4e09292b651c278b9772c569f5fa9bb13d906b46ab68c9df9dc2b4409f8a209";
    let id = text.parse::<StorePublicKey>().unwrap().id();
    assert_eq!(id.to_string(), "747b0481b6481885");
    assert_eq!(StoreKeyId::from_bytes(*id.as_bytes()), id);
}
