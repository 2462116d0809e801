//! PAX extended headers (POSIX.1-2017, pax, "pax Extended Header"): records of
//! `LENGTH KEY=VALUE\n`, where the length counts the whole record.
//!
//! Written here and not taken from the tar crate, because that one splits
//! records at line breaks, which may be part of a value.

/// Parses the records. The value is bytes: extended attributes are not text.
pub(super) fn parse(mut data: &[u8]) -> Result<Vec<(&str, &[u8])>, String> {
    let malformed = || "a PAX header is malformed".to_owned();
    let mut records = Vec::new();
    while !data.is_empty() {
        let space = data
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(malformed)?;
        let length: usize = std::str::from_utf8(&data[..space])
            .ok()
            .filter(|digits| {
                digits.len() <= 9 && digits.bytes().all(|digit| digit.is_ascii_digit())
            })
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(malformed)?;
        let record = data.get(space + 1..length).ok_or_else(malformed)?;
        let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(malformed)?;
        let key = std::str::from_utf8(&record[..equals]).map_err(|_| malformed())?;
        records.push((key, &record[equals + 1..]));
        data = &data[length..];
    }
    Ok(records)
}

/// Adds a record.
pub(super) fn push(data: &mut Vec<u8>, key: &str, value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    data.extend_from_slice(format!("{length} {key}=").as_bytes());
    data.extend_from_slice(value);
    data.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for length in [0, 1, 88, 89, 90, 91, 985, 986, 987, 988, 989] {
            let mut data = Vec::new();
            push(&mut data, "path", &vec![b'x'; length]);
            let digits = data.split(|byte| *byte == b' ').next().unwrap();
            assert_eq!(std::str::from_utf8(digits).unwrap(), data.len().to_string());
        }
    }

    #[test]
    fn what_is_not_a_record_is_refused() {
        for data in [
            "x",
            "5 a=b",
            "6 a=b",
            "6 a=bX",
            "0 a=b\n",
            "99999999999999999999 a=b\n",
            "+6 a=b\n",
            "6 abc\n",
            " a=b\n",
            "3 \n",
        ] {
            assert!(parse(data.as_bytes()).is_err(), "{data:?}");
        }
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_were_written(records in proptest::collection::vec(("[a-zA-Z.]{1,20}", any::<Vec<u8>>()), 0..5)) {
            let mut data = Vec::new();
            for (key, value) in &records {
                push(&mut data, key, value);
            }
            let read = parse(&data).unwrap();
            prop_assert_eq!(read.len(), records.len());
            for ((key, value), (read_key, read_value)) in records.iter().zip(read) {
                prop_assert_eq!(key.as_str(), read_key);
                prop_assert_eq!(value.as_slice(), read_value);
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(data: Vec<u8>) {
            let _ = parse(&data);
        }
    }
}
