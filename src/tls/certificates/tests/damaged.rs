//! Keys whose bytes are damaged: each one is read, or refused with a sentence that tells nothing of the key.

use pkcs8::der::Encode as _;
use pkcs8::der::asn1::OctetStringRef;
use pkcs8::pkcs5::EncryptionScheme;
use pkcs8::pkcs5::pbes2::{EncryptionScheme as Cipher, Kdf, Parameters, Pbkdf2Params, Pbkdf2Prf, ScryptParams};

use super::super::key::key_in;
use super::super::pem::PemFile;
use super::*;

/// The values that replace a byte.
const REPLACEMENTS: [fn(u8) -> u8; 5] = [|_| 0, |_| 0xff, |byte| byte ^ 1, |byte| byte ^ 0x80, |byte| byte / 2];

impl Place {
    /// Returns the sentence about a key in this text. `None`: the key is read.
    fn fault(&self, text: &[u8]) -> Option<String> {
        let path = self.path("damaged.key");
        fs::write(&path, text).unwrap();
        let file = PemFile::read("--keyfile", &path);
        let key = file.and_then(|file| key_in(&file, Some(b"secret")));
        let loaded = key.map(|key| cryptography::provider().key_provider.load_private_key(key).map(drop));
        let sentence = loaded.err()?;
        Some(sentence.strip_prefix(&format!("--keyfile {} ", path.display())).unwrap().to_owned())
    }

    /// Makes a key of each form, and returns it in PEM.
    fn keys(&self) -> Vec<(&'static str, Vec<u8>)> {
        self.openssl("genpkey -algorithm ed25519 -out ed25519.pem");
        self.openssl("genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-256 -out ec.pem");
        self.openssl("ec -in ec.pem -out sec1.pem");
        self.openssl("genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048 -out rsa.pem");
        self.openssl("rsa -in rsa.pem -traditional -out pkcs1.pem");
        let encrypt = "pkcs8 -topk8 -in ed25519.pem -passout pass:secret -iter 1";
        self.openssl(&format!("{encrypt} -v2 aes-256-cbc -v2prf hmacWithSHA512 -out pbkdf2.pem"));
        self.openssl(&format!("{encrypt} -v2 des3 -v2prf hmacWithSHA1 -out des.pem"));
        self.openssl(&format!("{encrypt} -scrypt -scrypt_N 2 -scrypt_r 1 -scrypt_p 1 -out scrypt.pem"));
        let names = ["ed25519", "ec", "sec1", "rsa", "pkcs1", "pbkdf2", "des", "scrypt"];
        names.map(|name| (name, fs::read(self.path(&format!("{name}.pem"))).unwrap())).into()
    }
}

/// Fails if a sentence is none, or contains a part of the lines of a key.
fn check(sentence: &str, text: &[u8], what: &str) {
    assert!(!sentence.contains(['\n', '\r', '\0']) && sentence.len() < 300, "{what}: {sentence:?}");
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter(|line| !line.starts_with('-') && line.len() >= 12);
    let parts: Vec<_> = lines.flat_map(|line| line.as_bytes().windows(12)).collect();
    let has_part = sentence.as_bytes().windows(12).any(|words| parts.contains(&words));
    assert!(!has_part, "{what}: {sentence:?} tells a part of the key");
}

#[test]
fn key_with_any_byte_changed_is_read_or_refused() {
    let place = Place::new();
    for (name, text) in place.keys() {
        assert_eq!(place.fault(&text), None, "{name}");
        let part = ::pem::parse(&text).unwrap();
        // The numbers of RSA fill most of its keys.
        let step = part.contents().len() / 200 + 1;
        for index in (0..part.contents().len()).filter(|index| *index < 60 || index % step == 0) {
            let damaged = |change: fn(u8) -> u8| {
                let mut der = part.contents().to_vec();
                der[index] = change(der[index]);
                der
            };
            let cut = part.contents()[..index].to_vec();
            for der in REPLACEMENTS.map(damaged).into_iter().chain([cut]) {
                let text = ::pem::encode(&::pem::Pem::new(part.tag(), der));
                if let Some(sentence) = place.fault(text.as_bytes()) {
                    check(&sentence, text.as_bytes(), name);
                }
            }
        }
    }
}

#[test]
fn text_with_any_byte_changed_is_read_or_refused_without_a_word_of_the_key() {
    let place = Place::new();
    place.openssl("genpkey -algorithm ed25519 -out k.pem").pair("a", EC, "DNS:a.example");
    let key = fs::read(place.path("k.pem")).unwrap();
    let text = [key.clone(), fs::read(place.path("a.pem")).unwrap()].concat();
    for index in 0..key.len() {
        for replacement in *b"\n -:\xffA" {
            let mut damaged = text.clone();
            damaged[index] = replacement;
            if let Some(sentence) = place.fault(&damaged) {
                check(&sentence, &text, &format!("byte {index} is {replacement}"));
            }
        }
    }
}

#[test]
fn file_that_is_cut_off_is_not_used() {
    let place = Place::new();
    place.pair("a", EC, "DNS:a.example");
    let both = [fs::read(place.path("a.key")).unwrap(), fs::read(place.path("a.pem")).unwrap()].concat();
    assert_eq!(place.fault(&both), None);
    let end = both.len() - "-----END CERTIFICATE-----\n".len();
    let sentence = place.fault(&both[..end]);
    assert_eq!(sentence.unwrap(), "is damaged: its last part has no line that begins with -----END");
}

#[test]
fn file_without_an_end_is_not_read_for_ever() {
    let endless = Path::new("/dev/zero");
    let sentence = PemFile::read("--certfile", endless).unwrap_err();
    assert_eq!(sentence, "--certfile /dev/zero cannot be read: it has more than 16777216 bytes");
}

/// Returns the sentence about a key with this way to its cipher, in PEM.
fn fault_of(place: &Place, kdf: Kdf) -> String {
    let parameters = Parameters { kdf, encryption: Cipher::Aes128Cbc { iv: [0; 16] } };
    let encrypted = pkcs8::EncryptedPrivateKeyInfoRef {
        encryption_algorithm: EncryptionScheme::Pbes2(parameters),
        encrypted_data: OctetStringRef::new(&[0; 32]).unwrap(),
    };
    let text = ::pem::encode(&::pem::Pem::new("ENCRYPTED PRIVATE KEY", encrypted.to_der().unwrap()));
    place.fault(text.as_bytes()).unwrap()
}

#[test]
fn key_that_costs_too_much_to_decrypt_is_refused_at_once() {
    let place = Place::new();
    let salt = b"saltsalt".as_slice().try_into().unwrap();
    let rounds = |iteration_count| {
        let prf = Pbkdf2Prf::HmacWithSha256;
        fault_of(&place, Kdf::Pbkdf2(Pbkdf2Params { salt, iteration_count, key_length: None, prf }))
    };
    assert_eq!(rounds(0), "has a damaged encrypted key: 0 rounds of PBKDF2");
    let wrong = "has a key that --keyfile-password does not decrypt: the password is wrong, or the file is damaged";
    assert_eq!(rounds(1), wrong);
    for count in [10_000_001, u32::MAX] {
        let sentence =
            format!("has an encrypted key that wants {count} rounds of PBKDF2, and at most 10000000 are done");
        assert!(rounds(count).starts_with(&sentence));
    }
    let scrypt = |cost_parameter, block_size, parallelization| {
        let (kdf, key_length) = (Kdf::Scrypt, None);
        fault_of(&place, kdf(ScryptParams { salt, cost_parameter, block_size, parallelization, key_length }))
    };
    assert_eq!(scrypt(1024, 1, 1), wrong);
    for (cost, block, parallel) in [(0, 8, 1), (1, 8, 1), (1000, 8, 1), (1024, 0, 1), (1024, 8, 0)] {
        let sentence = format!("has a damaged encrypted key: scrypt with N={cost}, r={block} and p={parallel}");
        assert_eq!(scrypt(cost, block, parallel), sentence);
    }
    for (cost, block, parallel) in [(1 << 19, 8, 1), (1 << 18, 8, 5), (1 << 40, 8, 1), (1 << 63, u16::MAX, u16::MAX)] {
        let sentence = scrypt(cost, block, parallel);
        assert!(
            sentence.starts_with("has an encrypted key that costs too much to decrypt: scrypt with N="),
            "{sentence}"
        );
    }
}

#[test]
fn key_that_is_encrypted_in_another_way_says_how_it_is_converted() {
    let place = Place::new();
    place.openssl("genpkey -algorithm ed25519 -out k.pem");
    let old = "has a key that is encrypted in an old form (PBES1 or PKCS#12): `openssl pkcs8 -topk8";
    let unknown = "has a key that is encrypted with a method that Maypole does not know (";
    for (options, beginning) in [
        ("-v1 PBE-SHA1-3DES", old),
        ("-v2 camellia-256-cbc", unknown),
        ("-v2 aes-256-ofb", unknown),
        ("-v2 aes-256-cbc -v2prf hmacWithSHA512-256", unknown),
    ] {
        place.openssl(&format!("pkcs8 -topk8 -in k.pem -out e.pem -passout pass:secret {options}"));
        let sentence = place.fault(&fs::read(place.path("e.pem")).unwrap()).unwrap();
        assert!(sentence.starts_with(beginning), "{options}: {sentence}");
    }
}
