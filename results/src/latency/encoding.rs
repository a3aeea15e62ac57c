//! Histograms from files: bytes of unknown origin, decoded in bounded memory.

use std::io::Read;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

/// First bytes of a V2 histogram.
const PLAIN: [u8; 4] = [0x1c, 0x84, 0x93, 0x13];

/// First bytes of a V2 histogram with DEFLATE. The length of the compressed bytes follows.
const COMPRESSED: [u8; 4] = [0x1c, 0x84, 0x93, 0x14];

/// Bytes before the counts of a V2 histogram. The second word is the length of the counts.
const HEADER: usize = 40;

/// Size limit of an inflated histogram. Those of `loadgen` take at most 0.3 MB.
const SIZE_MAX: u64 = 16 << 20;

/// Largest number of values: 50 days of a million a second. The interval of a percentile takes time
/// and memory in proportion to its square root.
pub(crate) const COUNT_MAX: u64 = 1 << 42;

/// The only encoding of the number -2^63, which the decoder would negate. Counts of at most 2^62
/// and gaps of zeros do not contain it.
const SMALLEST_NUMBER: [u8; 9] = [0xff; 9];

/// Decodes a V2 histogram, with or without DEFLATE, in base64.
///
/// # Errors
///
/// If the text is not base64, not a histogram, inflates beyond 16 MiB, or counts more than 2^42
/// values.
pub(super) fn decode(text: &str) -> Result<Histogram<u64>, String> {
    let bytes =
        BASE64_STANDARD.decode(text).map_err(|error| format!("hdr_v2 is not base64: {error}"))?;
    let no_histogram = |cause: &str| format!("hdr_v2 is not a histogram: {cause}");
    let plain = match bytes.strip_prefix(&COMPRESSED) {
        Some(rest) => inflate(rest).map_err(|cause| no_histogram(&cause))?,
        None => bytes,
    };
    if !plain.starts_with(&PLAIN) {
        return Err(no_histogram("its first bytes are not those of the format V2"));
    }
    let length = plain.get(4..8).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes);
    let counts = plain.get(HEADER..).unwrap_or_default();
    if length.is_none_or(|length| length as usize > counts.len()) {
        return Err(no_histogram("it is cut off"));
    }
    if counts.windows(SMALLEST_NUMBER.len()).any(|number| number == SMALLEST_NUMBER) {
        return Err(no_histogram("a number is out of range"));
    }
    let histogram: Histogram<u64> = Deserializer::new()
        .deserialize(&mut plain.as_slice())
        .map_err(|error| no_histogram(&error.to_string()))?;
    match histogram.len() {
        ..=COUNT_MAX => Ok(histogram),
        _ => Err(no_histogram("it counts more than 2^42 values")),
    }
}

fn inflate(rest: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    let compressed = rest.get(4..).ok_or("it is cut off")?;
    let read = ZlibDecoder::new(compressed).take(SIZE_MAX + 1).read_to_end(&mut plain);
    read.map_err(|error| error.to_string())?;
    match plain.len() as u64 {
        ..=SIZE_MAX => Ok(plain),
        _ => Err(format!("it inflates to more than {} MiB", SIZE_MAX >> 20)),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    /// A V2 histogram without DEFLATE.
    fn plain(digits: u32, low: u64, high: u64, counts: &[u8]) -> Vec<u8> {
        let mut bytes = PLAIN.to_vec();
        bytes.extend((counts.len() as u32).to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(digits.to_be_bytes());
        bytes.extend(low.to_be_bytes());
        bytes.extend(high.to_be_bytes());
        bytes.extend(1f64.to_be_bytes());
        bytes.extend(counts);
        bytes
    }

    fn deflated(plain: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(plain).unwrap();
        let compressed = encoder.finish().unwrap();
        [&COMPRESSED[..], &(compressed.len() as u32).to_be_bytes(), &compressed].concat()
    }

    fn decoded(bytes: &[u8]) -> Result<Histogram<u64>, String> {
        decode(&BASE64_STANDARD.encode(bytes))
    }

    /// LEB128 in at most nine bytes, of a ZigZag number.
    fn number(value: i64) -> Vec<u8> {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        let mut bytes = Vec::new();
        while bytes.len() < 8 && rest >= 0x80 {
            bytes.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        bytes.push(rest as u8);
        bytes
    }

    #[test]
    fn both_forms_are_decoded() {
        let bytes = plain(3, 1, 1000, &[number(2), number(-3), number(5)].concat());
        for form in [bytes.clone(), deflated(&bytes)] {
            let histogram = decoded(&form).unwrap();
            assert_eq!((histogram.len(), histogram.count_at(4)), (7, 5));
        }
    }

    #[test]
    fn inflated_size_is_bounded() {
        let bomb = plain(3, 1, 1000, &vec![0; SIZE_MAX as usize]);
        let error = decoded(&deflated(&bomb)).unwrap_err();
        assert_eq!(error, "hdr_v2 is not a histogram: it inflates to more than 16 MiB");
        // The length alone does not allocate.
        let mut long = plain(3, 1, 1000, &number(1));
        long[4..8].fill(0xff);
        for form in [long.clone(), deflated(&long)] {
            assert_eq!(decoded(&form).unwrap_err(), "hdr_v2 is not a histogram: it is cut off");
        }
    }

    #[test]
    fn numbers_out_of_range_are_errors() {
        for counts in [
            number(i64::MIN),
            [number(0), number(i64::MIN), number(1)].concat(),
            number(i64::MAX),
            [number(i64::MAX), number(i64::MAX), number(i64::MAX)].concat(),
            number(1 + COUNT_MAX as i64),
            [number(-1_000_000), number(1)].concat(),
        ] {
            decoded(&plain(3, 1, 1000, &counts)).unwrap_err();
        }
        assert!(decoded(&plain(3, 1, 1000, &number(-i64::MAX))).unwrap().is_empty());
        let most = decoded(&plain(3, 1, 1000, &number(COUNT_MAX as i64))).unwrap();
        assert_eq!(most.len(), COUNT_MAX);
        // A compressed histogram in a compressed one.
        assert!(decoded(&deflated(&deflated(&plain(3, 1, 1000, &number(1))))).is_err());
    }

    /// Whatever is decoded can be printed.
    #[test]
    fn random_bytes_do_not_panic() {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        eprintln!("seed {seed}");
        let bounds = [0, 1, 2, 3, 1 << 20, 1 << 45, 1 << 62, 1 << 63, u64::MAX / 2, u64::MAX];
        for _ in 0..500 {
            let mut counts = Vec::new();
            for _ in 0..random.usize(0..20) {
                let shift = random.u32(0..64);
                counts.extend(number((random.u64(..) >> shift) as i64));
            }
            let mut bound = || bounds[random.usize(..bounds.len())];
            let (low, high) = (bound(), bound());
            // Of five digits are the largest arrays.
            let digits = random.u32(0..5);
            let mut bytes = plain(digits, low, high, &counts);
            if random.u8(0..4) == 0 {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            if let Ok(histogram) = decoded(&bytes) {
                let mut latency = super::super::Latency::from_histogram(&histogram);
                latency.iter_mut().for_each(|it| it.unanswered = Some(u64::MAX));
                for statistic in ["p99.9", "mean", "max"] {
                    let statistic = statistic.parse().unwrap();
                    let bounds = latency.as_ref().map(|it| it.bounds(statistic));
                    assert!(bounds.is_none_or(|bounds| bounds.is_some()));
                }
            }
        }
    }
}
