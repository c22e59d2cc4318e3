// Products of a few vectors with stored rows, for answering: a block is decoded, multiplied and
// forgotten, so that nothing but the stored bytes is read. Here products and sums may be fused.

#include "kinds.cpp"

// A source gives some numbers of a row, from `at` on.
template <class Kind> struct FromBlocks {
    enum { numbers = Kind::numbers };
    const u8* data;
    int64_t stride;
    inline void read(int64_t row, int64_t at, int64_t, float* out) const {
        Kind::decode(data + row * stride + at / Kind::numbers * Kind::bytes, out);
    }
};

// Vectors are written out where the compiler would take single bytes.
typedef float lanes __attribute__((vector_size(64)));
typedef int32_t whole __attribute__((vector_size(64)));
typedef u8 bytes __attribute__((vector_size(16)));

static inline lanes load(const float* in) {
    lanes v;
    std::memcpy(&v, in, 64);
    return v;
}
static inline void store(float* out, lanes v) { std::memcpy(out, &v, 64); }
static inline bytes bytes_at(const u8* in) {
    bytes v;
    std::memcpy(&v, in, 16);
    return v;
}
static inline lanes floats_of(bytes v) {
    return __builtin_convertvector(__builtin_convertvector(v, whole), lanes);
}

template <> inline void FromBlocks<q8_0>::read(int64_t row, int64_t at, int64_t, float* out) const {
    const u8* in = data + row * stride + at / 32 * 34;
    float d = half(in), m = -128.0f * d;  // unsigned bytes become floats in one instruction
    store(out, floats_of(bytes_at(in + 2) ^ 128) * d + m);
    store(out + 16, floats_of(bytes_at(in + 18) ^ 128) * d + m);
}

template <> inline void FromBlocks<q4_0>::read(int64_t row, int64_t at, int64_t, float* out) const {
    const u8* in = data + row * stride + at / 32 * 18;
    float d = half(in), m = -8.0f * d;
    bytes q = bytes_at(in + 2);
    store(out, floats_of(q & 15) * d + m);
    store(out + 16, floats_of(q >> 4) * d + m);
}

template <> inline void FromBlocks<q4_1>::read(int64_t row, int64_t at, int64_t, float* out) const {
    const u8* in = data + row * stride + at / 32 * 20;
    float d = half(in), m = half(in + 2);
    bytes q = bytes_at(in + 4);
    store(out, floats_of(q & 15) * d + m);
    store(out + 16, floats_of(q >> 4) * d + m);
}

struct FromInt8 {
    enum { numbers = 64 };
    const int8_t* codes;
    const float* scales;
    int64_t width;
    inline void read(int64_t row, int64_t at, int64_t count, float* out) const {
        const int8_t* q = codes + row * width + at;
        float scale = scales[row];
        for (int i = 0; i < count; i++) out[i] = (float)q[i] * scale;
    }
};

struct FromNf4 {
    enum { numbers = 64 };
    const u8 *codes, *scales;
    const float* nested;
    float offset;
    const float *map, *values;
    int64_t across;
    inline void read(int64_t row, int64_t at, int64_t, float* out) const {
        int64_t block = row * across + at / 64;
        nf4_block(codes + block * 32, values, map[scales[block]] * nested[block / 256] + offset, out);
    }
};

static inline float wide(float v) { return v; }
static inline float wide(uint16_t v) { return __builtin_bit_cast(float, (uint32_t)v << 16); }

template <class T> struct FromPlain {  // float32, or bfloat16 as uint16_t
    enum { numbers = 64 };
    const T* data;
    int64_t stride;
    inline void read(int64_t row, int64_t at, int64_t count, float* out) const {
        const T* in = data + row * stride + at;
        for (int i = 0; i < count; i++) out[i] = wide(in[i]);
    }
};

// A row times N vectors.
template <int N, class Source>
static inline void one_row(const Source& source, int64_t row, int64_t width, const float* x, float* out,
                           int64_t stride) {
    constexpr int numbers = Source::numbers;
    lanes even[N] = {}, odd[N] = {};  // two sums, since one would wait for itself
    alignas(64) float w[numbers];
    int64_t at = 0;
    for (; at + numbers <= width; at += numbers) {
        source.read(row, at, numbers, w);
        for (int k = 0; k < numbers; k += 32) {
            lanes one = load(w + k), other = load(w + k + 16);
            for (int r = 0; r < N; r++) {
                const float* vector = x + r * width + at + k;
                even[r] += one * load(vector);
                odd[r] += other * load(vector + 16);
            }
        }
    }
    float rest[N] = {};
    if (at < width) {
        source.read(row, at, width - at, w);
        for (int r = 0; r < N; r++)
            for (int64_t k = 0; k < width - at; k++) rest[r] += w[k] * x[r * width + at + k];
    }
    for (int r = 0; r < N; r++) {
        lanes sums = even[r] + odd[r];
        float total = rest[r];
        for (int l = 0; l < 16; l++) total += sums[l];
        out[r * stride] = total;
    }
}

template <class Source>
static inline void row_times(const Source& source, int64_t row, int64_t width, const float* x, int64_t n,
                             float* out, int64_t stride) {
    for (; n >= 4; n -= 4, x += 4 * width, out += 4 * stride) one_row<4>(source, row, width, x, out, stride);
    if (n == 3) one_row<3>(source, row, width, x, out, stride);
    if (n == 2) one_row<2>(source, row, width, x, out, stride);
    if (n == 1) one_row<1>(source, row, width, x, out, stride);
}

// `count` outputs from row `first` on, for n vectors x [n, width]; out has a row for each vector.
template <class Source>
static void multiply(Source source, int64_t first, int64_t count, int64_t width, const float* x,
                     int64_t n, float* out, int64_t stride, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) row_times(source, first + i, width, x, n, out + i, stride);
}

#define MULTIPLY(KIND)                                                                           \
    extern "C" void multiply_##KIND(const u8* data, int64_t stride, int64_t first, int64_t count, \
                                    int64_t width, const float* x, int64_t n, float* out,        \
                                    int64_t out_stride, int threads) {                           \
        multiply(FromBlocks<KIND>{data, stride}, first, count, width, x, n, out, out_stride,     \
                 threads);                                                                       \
    }
MULTIPLY(q8_0)
MULTIPLY(q4_0)
MULTIPLY(q4_1)
MULTIPLY(q5_0)
MULTIPLY(q5_1)
MULTIPLY(q4_k)
MULTIPLY(q5_k)
MULTIPLY(q6_k)

extern "C" void multiply_int8(const int8_t* codes, const float* scales, int64_t first, int64_t count,
                              int64_t width, const float* x, int64_t n, float* out,
                              int64_t out_stride, int threads) {
    multiply(FromInt8{codes, scales, width}, first, count, width, x, n, out, out_stride, threads);
}

extern "C" void multiply_nf4(const u8* codes, const u8* scales, const float* nested, float offset,
                             const float* map, const float* values, int64_t first, int64_t count,
                             int64_t width, const float* x, int64_t n, float* out,
                             int64_t out_stride, int threads) {
    multiply(FromNf4{codes, scales, nested, offset, map, values, width / 64}, first, count, width, x,
             n, out, out_stride, threads);
}

extern "C" void multiply_f32(const float* data, int64_t stride, int64_t first, int64_t count,
                             int64_t width, const float* x, int64_t n, float* out,
                             int64_t out_stride, int threads) {
    multiply(FromPlain<float>{data, stride}, first, count, width, x, n, out, out_stride, threads);
}

extern "C" void multiply_bf16(const uint16_t* data, int64_t stride, int64_t first, int64_t count,
                              int64_t width, const float* x, int64_t n, float* out,
                              int64_t out_stride, int threads) {
    multiply(FromPlain<uint16_t>{data, stride}, first, count, width, x, n, out, out_stride, threads);
}

// The same for a matrix whose inputs come first [width, count]: some outputs at a time, so that their
// sums stay in registers while the inputs go by.
template <int N, class T>
static void few_columns(const T* data, int64_t stride, int64_t first, int64_t count, int64_t width,
                        const float* x, float* out, int64_t out_stride) {
    constexpr int64_t vectors = N > 2 ? 4 : 8, taken = 16 * vectors;
    for (; first < count; first += taken) {
        int64_t left = count - first < taken ? count - first : taken;
        lanes sums[N][vectors] = {};
        alignas(64) float w[taken] = {0};
        for (int64_t i = 0; i < width; i++) {
            const T* in = data + i * stride + first;
            for (int64_t j = 0; j < left; j++) w[j] = wide(in[j]);
            for (int r = 0; r < N; r++)
                for (int v = 0; v < vectors; v++) sums[r][v] += load(w + 16 * v) * x[r * width + i];
        }
        for (int r = 0; r < N; r++)
            for (int64_t j = 0; j < left; j++) out[r * out_stride + first + j] = sums[r][j / 16][j % 16];
    }
}

// Outputs `first` to `last`.
template <class T>
static void columns_times(const T* data, int64_t stride, int64_t first, int64_t last, int64_t width,
                          const float* x, int64_t n, float* out, int64_t out_stride) {
    for (; n >= 4; n -= 4, x += 4 * width, out += 4 * out_stride)
        few_columns<4>(data, stride, first, last, width, x, out, out_stride);
    if (n == 3) few_columns<3>(data, stride, first, last, width, x, out, out_stride);
    if (n == 2) few_columns<2>(data, stride, first, last, width, x, out, out_stride);
    if (n == 1) few_columns<1>(data, stride, first, last, width, x, out, out_stride);
}

template <class T>
static void multiply_columns(const T* data, int64_t stride, int64_t count, int64_t width,
                             const float* x, int64_t n, float* out, int64_t out_stride, int threads) {
    int64_t each = (count + 128 * threads - 1) / (128 * threads) * 128;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t first = 0; first < count; first += each) {
        int64_t last = first + each < count ? first + each : count;
        columns_times(data, stride, first, last, width, x, n, out, out_stride);
    }
}

#define COLUMNS(NAME, T)                                                                         \
    extern "C" void multiply_columns_##NAME(const T* data, int64_t stride, int64_t count,        \
                                            int64_t width, const float* x, int64_t n,            \
                                            float* out, int64_t out_stride, int threads) {       \
        multiply_columns(data, stride, count, width, x, n, out, out_stride, threads);            \
    }
COLUMNS(f32, float)
COLUMNS(bf16, uint16_t)

static inline float dot(const float* a, const float* b, int64_t n) {
    lanes sums = {};
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) sums += load(a + i) * load(b + i);
    float total = 0;
    for (int l = 0; l < 16; l++) total += sums[l];
    for (; i < n; i++) total += a[i] * b[i];
    return total;
}

template <class T> static inline const float* widened(const T* in, int64_t n, float* out) {
    for (int64_t i = 0; i < n; i++) out[i] = wide(in[i]);
    return out;
}
static inline const float* widened(const float* in, int64_t, float*) { return in; }
