package he

// The table's rule as constants, which the compiler works out: a profile whose
// lanes and noise reach its modulus, or whose modulus reaches the limit of its
// ring, makes one of these numbers negative, and the package does not build.
// TestGate holds these lines against the table; package initialisation checks
// the table itself once more.
const (
	_ = uint64((0xffffffffff001)>>(20*2+9+1) - 1)
	_ = uint64(0 - (0xffffffffff001)>>53)
	_ = uint64((0xfffffd001)>>(22*1+10+1) - 1)
	_ = uint64(0 - (0xfffffd001)>>53)
	_ = uint64((0xfffffd001)>>(23*1+11+1) - 1)
	_ = uint64(0 - (0xfffffd001)>>53)
	_ = uint64((0xffffff7001)>>(28*1+9+1) - 1)
	_ = uint64(0 - (0xffffff7001)>>53)
	_ = uint64((0x3ffffffa001)>>(30*1+10+1) - 1)
	_ = uint64(0 - (0x3ffffffa001)>>53)
	_ = uint64((0xfffffffc001)>>(31*1+11+1) - 1)
	_ = uint64(0 - (0xfffffffc001)>>53)
	_ = uint64((0x3ffffff84001*0x3ffffff70001)>>(20*4+9+1) - 1)
	_ = uint64(0 - (0x3ffffff84001*0x3ffffff70001)>>103)
	_ = uint64((0x3ffffffffc001*0x3fffffffcc001)>>(22*4+10+1) - 1)
	_ = uint64(0 - (0x3ffffffffc001*0x3fffffffcc001)>>103)
	_ = uint64((0x1ffffff0001*0x1fffffb0001)>>(23*3+11+1) - 1)
	_ = uint64(0 - (0x1ffffff0001*0x1fffffb0001)>>103)
	_ = uint64((0xffffffffc001*0x7ffffffec001)>>(28*3+9+1) - 1)
	_ = uint64(0 - (0xffffffffc001*0x7ffffffec001)>>103)
	_ = uint64((0x7fffffffe0001*0x7fffffffce001)>>(30*3+10+1) - 1)
	_ = uint64(0 - (0x7fffffffe0001*0x7fffffffce001)>>103)
	_ = uint64((0x3ffffea001*0x1ffffe0001)>>(31*2+11+1) - 1)
	_ = uint64(0 - (0x3ffffea001*0x1ffffe0001)>>103)
	_ = uint64((0x1fffffffffc0001*0x1fffffffff50001*0x1fffffffff14001)>>(20*8+9+1) - 1)
	_ = uint64(0 - (0x1fffffffffc0001*0x1fffffffff50001*0x1fffffffff14001)>>206)
	_ = uint64((0x7ffffffec001*0x7ffffffc8001*0x7ffffffb4001*0x7ffffff00001)>>(22*8+10+1) - 1)
	_ = uint64(0 - (0x7ffffffec001*0x7ffffffc8001*0x7ffffffb4001*0x7ffffff00001)>>206)
	_ = uint64((0x3ffffffffc001*0x1fffffff74001*0x1fffffff68001*0x1fffffff50001)>>(23*8+11+1) - 1)
	_ = uint64(0 - (0x3ffffffffc001*0x1fffffff74001*0x1fffffff68001*0x1fffffff50001)>>206)
	_ = uint64((0xfffffffffffc001*0xffffffffffe8001*0xffffffffffd8001)>>(28*6+9+1) - 1)
	_ = uint64(0 - (0xfffffffffffc001*0xffffffffffe8001*0xffffffffffd8001)>>206)
	_ = uint64((0xffffffffc001*0xfffffffd8001*0xfffffffa0001*0xfffffff00001)>>(30*6+10+1) - 1)
	_ = uint64(0 - (0xffffffffc001*0xfffffffd8001*0xfffffffa0001*0xfffffff00001)>>206)
	_ = uint64((0x3ffffffffc001*0x3fffffffcc001*0x3ffffffef4001*0x3ffffffe94001)>>(31*6+11+1) - 1)
	_ = uint64(0 - (0x3ffffffffc001*0x3fffffffcc001*0x3ffffffef4001*0x3ffffffe94001)>>206)
	_ = uint64((0x7fffffffff18001*0x7ffffffffeb8001*0x7ffffffffe70001*0x7ffffffffe10001*0x7ffffffffde8001*0x3ffffffffef8001*0x3ffffffffe58001)>>(20*20+9+1) - 1)
	_ = uint64(0 - (0x7fffffffff18001*0x7ffffffffeb8001*0x7ffffffffe70001*0x7ffffffffe10001*0x7ffffffffde8001*0x3ffffffffef8001*0x3ffffffffe58001)>>412)
	_ = uint64((0x7fffffffe0001*0x7ffffffdd0001*0x7ffffffd20001*0x7ffffffd10001*0x7ffffffc68001*0x7ffffffc60001*0x7ffffffc48001*0x7ffffffbe8001)>>(22*18+10+1) - 1)
	_ = uint64(0 - (0x7fffffffe0001*0x7ffffffdd0001*0x7ffffffd20001*0x7ffffffd10001*0x7ffffffc68001*0x7ffffffc60001*0x7ffffffc48001*0x7ffffffbe8001)>>412)
	_ = uint64((0x3ffffffffef8001*0x3ffffffffe58001*0x3ffffffffc10001*0x3ffffffffbe0001*0x3ffffffffbd0001*0x3ffffffffa08001*0x3ffffffff930001)>>(23*17+11+1) - 1)
	_ = uint64(0 - (0x3ffffffffef8001*0x3ffffffffe58001*0x3ffffffffc10001*0x3ffffffffbe0001*0x3ffffffffbd0001*0x3ffffffffa08001*0x3ffffffff930001)>>412)
	_ = uint64((0x3ffffffffef8001*0x3ffffffffe58001*0x3ffffffffc10001*0x3ffffffffbe0001*0x3ffffffffbd0001*0x3ffffffffa08001*0x3ffffffff930001)>>(28*14+9+1) - 1)
	_ = uint64(0 - (0x3ffffffffef8001*0x3ffffffffe58001*0x3ffffffffc10001*0x3ffffffffbe0001*0x3ffffffffbd0001*0x3ffffffffa08001*0x3ffffffff930001)>>412)
	_ = uint64((0x3ffffffffef8001*0x3ffffffffe58001*0x3ffffffffc10001*0x3ffffffffbe0001*0x3ffffffffbd0001*0x3ffffffffa08001*0x3ffffffff930001)>>(30*13+10+1) - 1)
	_ = uint64(0 - (0x3ffffffffef8001*0x3ffffffffe58001*0x3ffffffffc10001*0x3ffffffffbe0001*0x3ffffffffbd0001*0x3ffffffffa08001*0x3ffffffff930001)>>412)
	_ = uint64((0x7fffffffe90001*0x7fffffffd58001*0x7fffffffbf0001*0x7fffffffbd0001*0x7fffffffba0001*0x7fffffffb58001*0x7fffffffaa0001)>>(31*12+11+1) - 1)
	_ = uint64(0 - (0x7fffffffe90001*0x7fffffffd58001*0x7fffffffbf0001*0x7fffffffbd0001*0x7fffffffba0001*0x7fffffffb58001*0x7fffffffaa0001)>>412)
)

func init() {
	for _, p := range profiles {
		if err := p.check(); err != nil {
			panic("he: the table of profiles: " + err.Error())
		}
	}
}
