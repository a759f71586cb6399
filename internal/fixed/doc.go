// Package fixed turns floating-point values into exact integers and back.
//
// What hospitals encrypt and sum are integers, so a sum is the same bits in
// whatever order, on whatever processor and after whatever failover it was
// made. This room is the only place where a float becomes one of them:
//
//   - Exact blocks hold statistics. A value becomes an integer of 128 bits with
//     64 fractional bits. Sums of such integers are exact, and Open rounds the
//     exact sum to float64 once, to nearest even. The only error of a whole round
//     is the rounding of each hospital's value to 2^-64 and that last one.
//   - Learned blocks hold parameters of a model. A value is clipped to
//     [-Clip, Clip] and rounded to 16 or 24 bits.
//
// # Lanes
//
// The encryption carries bounded signed integers, called lanes, of
// Layout.Bits() bits. A Learned value is one lane. An Exact value x, in units
// of 2^-64, is two's complement split into eight digits of 16 bits, least
// significant first:
//
//	x = d0 + d1·2^16 + … + d6·2^96 + d7·2^112
//
// Digits d0 to d6 are unsigned and stored as d - 2^15, which centres them; the
// highest, d7, carries the sign and is stored as it is. With the sign in one
// digit's weight, and not in a modulus, the digit sums of n hospitals determine
// the sum as an ordinary integer.
//
// # Margins
//
// A value of magnitude 2^62 or more, NaN or an infinity is an error at its
// site, never a wrap. The sum of n <= 128 (consilium.MaxSites) values is below
// 2^69 in magnitude: it has at most 133 bits before rounding, and each digit
// sum is below 2^23, far inside the moduli of the encryption. No sum of valid
// contributions can wrap anywhere.
//
// # Not protected here
//
// A dishonest hospital can contribute any valid value; that is bounded by the
// study's design, not by this package. Open refuses sums that no n valid
// contributions can make.
package fixed
