package mvcc

import (
	"hash/crc32"
	"math/bits"
)

// crcPowers[i] is x^(8 * 2^i) modulo the polynomial of CRC-32C: multiplying a CRC by it appends 2^i zero bytes. In the
// reflected form used here the most significant bit is the coefficient of x^0.
var crcPowers = func() (p [32]uint32) {
	p[0] = 1 << (31 - 8)
	for i := 1; i < len(p); i++ {
		p[i] = mulCRC(p[i-1], p[i-1])
	}
	return p
}()

// mulCRC multiplies two polynomials modulo that of CRC-32C.
func mulCRC(a, b uint32) (product uint32) {
	for ; a != 0; a <<= 1 {
		if a>>31 != 0 {
			product ^= b
		}
		b = b>>1 ^ crc32.Castagnoli&-(b&1)
	}
	return product
}

// combineCRC returns the CRC-32C of a followed by b, given the CRCs of both and the length of b.
func combineCRC(a, b uint32, length int) uint32 {
	for n := uint32(length); n != 0; n &= n - 1 {
		a = mulCRC(crcPowers[bits.TrailingZeros32(n)], a)
	}
	return a ^ b
}
