package gemm

import (
	"runtime"
	"sync"
	"unsafe"
)

// Float is what matrices are made of.
type Float interface{ float32 | float64 }

// Block sizes: a panel of B (blockK × a tile's width) stays in the first cache,
// a block of A (blockM × blockK) in the second. blockN bounds the copy of B.
const (
	blockK = 256
	blockM = 192
	blockN = 512
)

const (
	inPlaceRows  = 48       // with at most so many rows of A a copy of B does not pay
	inPlaceBytes = 48 << 10 // nor for a B that fits the first cache nearly
	parallelFrom = 1 << 24  // multiply-adds from which threads pay
)

// tile is the argument of a tile's function; the assembly knows its offsets.
type tile struct {
	k       int            // steps
	a       unsafe.Pointer // A's element of the first row and step
	aRow    uintptr        // bytes from row to row
	aStep   uintptr        // bytes from step to step
	b       unsafe.Pointer // B's first column of the first step
	bStep   uintptr        // bytes from step to step
	c       unsafe.Pointer // C's first element
	cRow    uintptr        // bytes from row to row
	mask    uint32         // columns of the tile that exist, one bit each, in two halves
	_       uint32
	columns unsafe.Pointer // the same for AVX2: two vectors of masks
	load    int            // 0: the chains start at +0, else at C
}

// path is one way to compute tiles of T.
type path[T Float] struct {
	rows, cols int            // of a tile; 0 rows: portable
	full       []func(*tile)  // by rows - 1
	edge       []func(*tile)  // the same for fewer columns
	column     []func(*tile)  // one column, by rows - 1, at most 8
	panels     bool           // edges of B must be padded to a tile's width
	masks      unsafe.Pointer // for edge: cols ones, then cols zeros, of T's width
}

// matrix is a view: element (i, j) is data[i*row + j*col].
type matrix[T Float] struct {
	data     []T
	row, col int
}

// product adds A (m × k) times B (k × n) to C (m × n, rows of ldc), whose
// chains start at +0 unless load.
func product[T Float](p *path[T], m, n, k int, a, b matrix[T], c []T, ldc int, load bool) {
	if p.rows == 0 {
		portable(m, n, k, a, b, c, ldc, load)
		return
	}
	threads := 1
	if m*n*k >= parallelFrom {
		threads = runtime.GOMAXPROCS(0)
	}
	// Threads take whole tiles, along the longer side.
	side, unit := n, p.cols
	byRows := m > n
	if byRows {
		side, unit = m, p.rows
	}
	tiles := (side + unit - 1) / unit
	threads = max(1, min(threads, tiles))
	if threads == 1 {
		blocks(p, m, n, k, a, b, c, ldc, load)
		return
	}
	var group sync.WaitGroup
	for t := range threads {
		from, to := t*tiles/threads*unit, min((t+1)*tiles/threads*unit, side)
		group.Add(1)
		go func() {
			defer group.Done()
			if byRows {
				blocks(p, to-from, n, k, matrix[T]{a.data[from*a.row:], a.row, a.col}, b, c[from*ldc:], ldc, load)
			} else {
				blocks(p, m, to-from, k, a, matrix[T]{b.data[from*b.col:], b.row, b.col}, c[from:], ldc, load)
			}
		}()
	}
	group.Wait()
}

// blocks is product in one goroutine.
func blocks[T Float](p *path[T], m, n, k int, a, b matrix[T], c []T, ldc int, load bool) {
	size := int(unsafe.Sizeof(*new(T)))
	if n == 1 {
		byVector(p, m, k, a, b, c, ldc, load)
		return
	}
	inPlace := b.col == 1 && (m <= inPlaceRows || n*k*size <= inPlaceBytes)
	need := 0
	if !inPlace || p.panels && n%p.cols != 0 {
		need = min(k, blockK) * (min(n, blockN) + p.cols)
	}
	space := room[T](need)
	defer giveBack(space)
	panel, t := space.values, &space.tile
	for l0 := 0; l0 < k; l0 += blockK {
		kb := min(blockK, k-l0)
		*t = tile{k: kb, aRow: uintptr(a.row * size), aStep: uintptr(a.col * size), cRow: uintptr(ldc * size)}
		if load || l0 > 0 {
			t.load = 1
		}
		for j0 := 0; j0 < n; j0 += blockN {
			nb := min(blockN, n-j0)
			if !inPlace {
				pack(panel, p.cols, b, l0, kb, j0, nb)
			} else if over := nb % p.cols; need > 0 && over != 0 {
				pack(panel, p.cols, b, l0, kb, j0+nb-over, over)
			}
			for i0 := 0; i0 < m; i0 += blockM {
				mb := min(blockM, m-i0)
				for j := 0; j < nb; j += p.cols {
					cols := min(p.cols, nb-j)
					run := p.full
					if cols < p.cols {
						run = p.edge
					}
					t.mask = uint32(1<<cols - 1)
					if p.masks != nil {
						t.columns = unsafe.Add(p.masks, (p.cols-cols)*size)
					}
					switch {
					case !inPlace:
						t.b, t.bStep = unsafe.Pointer(&panel[j*kb]), uintptr(p.cols*size)
					case p.panels && cols < p.cols:
						t.b, t.bStep = unsafe.Pointer(&panel[0]), uintptr(p.cols*size)
					default:
						t.b, t.bStep = unsafe.Pointer(&b.data[l0*b.row+j0+j]), uintptr(b.row*size)
					}
					for i := 0; i < mb; i += p.rows {
						t.a = unsafe.Pointer(&a.data[(i0+i)*a.row+l0*a.col])
						t.c = unsafe.Pointer(&c[(i0+i)*ldc+j0+j])
						run[min(p.rows, mb-i)-1](t)
					}
				}
			}
		}
	}
}

// byVector is blocks with one column.
func byVector[T Float](p *path[T], m, k int, a, b matrix[T], c []T, ldc int, load bool) {
	size := int(unsafe.Sizeof(*new(T)))
	space := room[T](0)
	defer giveBack(space)
	t := &space.tile
	for l0 := 0; l0 < k; l0 += blockK {
		*t = tile{k: min(blockK, k-l0), aRow: uintptr(a.row * size), aStep: uintptr(a.col * size), bStep: uintptr(b.row * size), cRow: uintptr(ldc * size)}
		t.b = unsafe.Pointer(&b.data[l0*b.row])
		if load || l0 > 0 {
			t.load = 1
		}
		for i := 0; i < m; i += len(p.column) {
			t.a, t.c = unsafe.Pointer(&a.data[i*a.row+l0*a.col]), unsafe.Pointer(&c[i*ldc])
			p.column[min(len(p.column), m-i)-1](t)
		}
	}
}

// pack copies kb steps of nb columns of B into panels of width columns, the
// last one padded with zeros, panel after panel.
func pack[T Float](dst []T, width int, b matrix[T], l0, kb, j0, nb int) {
	for j := 0; j < nb; j += width {
		cols := min(width, nb-j)
		panel := dst[j*kb : j*kb+width*kb]
		if cols < width {
			clear(panel)
		}
		if b.col == 1 {
			for l := range kb {
				copy(panel[l*width:l*width+cols], b.data[(l0+l)*b.row+j0+j:])
			}
			continue
		}
		transposePanel(panel, width, b.data[(j0+j)*b.col+l0:], b.col, kb, cols)
	}
}

// transposePanel writes cols rows of src, each of kb values, as columns: four
// rows at a time, so that each line of the panel is written in few pieces.
func transposePanel[T Float](panel []T, width int, src []T, stride, kb, cols int) {
	j := 0
	for ; j+4 <= cols; j += 4 {
		r0, r1 := src[j*stride:][:kb], src[(j+1)*stride:][:kb]
		r2, r3 := src[(j+2)*stride:][:kb], src[(j+3)*stride:][:kb]
		at := j
		for l := range kb {
			d := panel[at : at+4 : at+4]
			d[0], d[1], d[2], d[3] = r0[l], r1[l], r2[l], r3[l]
			at += width
		}
	}
	for ; j < cols; j++ {
		at := j
		for _, v := range src[j*stride:][:kb] {
			panel[at] = v
			at += width
		}
	}
}

// space is what a product needs beside its matrices; it is kept for the next.
type space[T Float] struct {
	tile   tile
	values []T
}

var spaces32, spaces64 sync.Pool

// room returns a space of at least n values.
func room[T Float](n int) *space[T] {
	s, ok := poolOf[T]().Get().(*space[T])
	if !ok {
		s = new(space[T])
	}
	if len(s.values) < n {
		s.values = make([]T, n)
	}
	return s
}

// giveBack keeps s, without pointers into the caller's matrices.
func giveBack[T Float](s *space[T]) {
	s.tile = tile{}
	poolOf[T]().Put(s)
}

func poolOf[T Float]() *sync.Pool {
	if unsafe.Sizeof(*new(T)) == 8 {
		return &spaces64
	}
	return &spaces32
}
