/* == head == */
/* C leaves it to the compiler what >> does to a negative number, and how wide an int is. Here >>
   has to round down and an int to have 32 bits; where it is otherwise, this does not compile. */
typedef char as_expected[(-3 >> 1) == -2 && sizeof(int) == 4 ? 1 : -1];

/* Loops over channels and over rows of weights run in steps of LANES, so that vector registers are
   always full. The last step writes up to LANES - 1 values too many: they lie where the next pixel
   will be written, or in the room that is left behind a buffer. Convolutions compute PIXELS pixels
   in turn: what a register reads is not what was written just before, for which it had to wait.
   A weight and an operand, what it is multiplied by, are bytes, or 16 bits wide where the processor
   multiplies and sums those in one instruction, but no bytes. */

/* == saturate == */
static int8_t saturate(int value, int low)
{
    return (int8_t)(value < low ? low : value > 127 ? 127 : value);
}

/* == layer == */
typedef struct {
    const weight *weights;
    const int32_t *bias; /* for each output; holds what the zero points add up to */
    const int32_t *multipliers;
    const uint8_t *shifts; /* less 32 */
    uint16_t rows, columns, channels, out_rows, out_columns, out_channels;
    uint16_t kernel_rows, kernel_columns, stride_rows, stride_columns, top, left, groups;
    uint16_t row; /* bytes of a row of weights: those of one output, then zeros up to a step */
    int16_t zero_in, zero_out, low;
} layer;

/* == requantize == */
/* accumulator * multiplier / 2^shift, to the nearest integer, halves upwards. */
static int requantize(int accumulator, int32_t multiplier, int shift)
{
    const int64_t half = (int64_t)1 << (shift - 1);
    return (int)(((int64_t)accumulator * multiplier + half) >> shift);
}

/* == store == */
/* Requantize the sums of some channels. The shifts are above 32 here, so the lower half of a
   product decides nothing, and the upper half, shifted and rounded, gives the same in 32 bits. */
static void requantize_all(const int32_t *restrict values, const int32_t *restrict multipliers,
                           const uint8_t *restrict shifts, int count, int zero, int low,
                           int8_t *restrict output)
{
    for (int step = 0; step < count; step += LANES)
        for (int i = step; i < step + LANES; i++) {
            const int upper = (int)((int64_t)values[i] * multipliers[i] >> 32);
            const int value = (upper + (1 << (shifts[i] - 1))) >> shifts[i];
            output[i] = saturate(value + zero, low);
        }
}

static void store(const layer *l, int pixel, int first, int count, int8_t *output)
{
    requantize_all(sums[pixel], l->multipliers + first, l->shifts + first, count, l->zero_out,
                   l->low, output);
}

/* == multiply == */
/* Products of a patch with rows of weights. Four rows share what is read of the patch. */
static void multiply(int pixel, const weight *restrict weights, int row,
                     const int32_t *restrict bias, int count)
{
    const int length = row / LANES * LANES; /* row; but now the compiler knows of the steps */
    int i = 0;
    for (; i + 4 <= count; i += 4) {
        const weight *w0 = weights + i * length, *w1 = w0 + length;
        const weight *w2 = w1 + length, *w3 = w2 + length;
        int a = bias[i], b = bias[i + 1], c = bias[i + 2], d = bias[i + 3];
        for (int k = 0; k < length; k++) {
            a += patch[pixel][k] * w0[k];
            b += patch[pixel][k] * w1[k];
            c += patch[pixel][k] * w2[k];
            d += patch[pixel][k] * w3[k];
        }
        sums[pixel][i] = a;
        sums[pixel][i + 1] = b;
        sums[pixel][i + 2] = c;
        sums[pixel][i + 3] = d;
    }
    for (; i < count; i++) {
        int a = bias[i];
        for (int k = 0; k < length; k++)
            a += patch[pixel][k] * weights[i * length + k];
        sums[pixel][i] = a;
    }
}

/* == convolve == */
static int clip(int value, int high)
{
    return value < 0 ? 0 : value > high ? high : value;
}

/* Lay the pixels that the kernel covers side by side, as 0 to 255: the instructions of many
   processors multiply unsigned by signed bytes. Beside the image lies the zero point. */
static void gather(const layer *l, const int8_t *restrict input, int channels, int y, int x,
                   operand *restrict target)
{
    const int width = l->kernel_columns;
    const int run = l->groups == 1 ? width : 1; /* pixels that lie side by side in memory */
    const operand beside = (operand)(l->zero_in + 128);
    for (int row = y; row < y + l->kernel_rows; row++)
        for (int column = x; column < x + width; column += run) {
            const int is_inside = row >= 0 && row < l->rows;
            const int begin = is_inside ? clip(-column, run) * channels : run * channels;
            const int end = is_inside ? clip(l->columns - column, run) * channels : begin;
            const int first = (row * l->columns + column) * l->channels;
            for (int i = 0; i < begin; i++)
                target[i] = beside;
            for (int step = begin; step < end; step += LANES)
                for (int i = step; i < step + LANES; i++)
                    target[i] = (operand)(input[first + i] + 128);
            for (int i = end; i < run * channels; i++)
                target[i] = beside;
            target += run * channels;
        }
}

static void convolve(const layer *l, const int8_t *restrict input, int8_t *restrict output)
{
    const int channels = l->channels / l->groups, count = l->out_channels / l->groups;
    const int most = l->groups == 1 ? PIXELS : 1; /* groups of a pixel are written in turn */
    for (int y = 0; y < l->out_rows; y++)
        for (int x = 0; x < l->out_columns; x += most) {
            const int pixels = clip(l->out_columns - x, most);
            for (int group = 0; group < l->groups; group++) {
                const int first = group * count;
                for (int i = 0; i < pixels; i++)
                    gather(l, input + group * channels, channels, y * l->stride_rows - l->top,
                           (x + i) * l->stride_columns - l->left, patch[i]);
                for (int i = 0; i < pixels; i++)
                    multiply(i, l->weights + first * l->row, l->row, l->bias + first, count);
                for (int i = 0; i < pixels; i++, output += count)
                    store(l, i, first, count, output);
            }
        }
}

/* == depthwise == */
static void accumulate(const int8_t *restrict source, const weight *restrict weights, int row,
                       int zero, int32_t *restrict totals)
{
    for (int step = 0; step < row; step += LANES)
        for (int i = step; i < step + LANES; i++)
            totals[i] += (int16_t)((source[i] - zero) * weights[i]);
}

/* Each channel has a small kernel of its own; row is the number of channels, rounded up. */
static void convolve_depthwise(const layer *l, const int8_t *restrict input,
                               int8_t *restrict output)
{
    const int row = l->row;
    for (int y = 0; y < l->out_rows; y++)
        for (int x = 0; x < l->out_columns; x++) {
            const int top = y * l->stride_rows - l->top, left = x * l->stride_columns - l->left;
            const weight *weights = l->weights;
            for (int i = 0; i < row; i++)
                sums[0][i] = l->bias[i];
            for (int v = top; v < top + l->kernel_rows; v++)
                for (int u = left; u < left + l->kernel_columns; u++, weights += row)
                    if (v >= 0 && v < l->rows && u >= 0 && u < l->columns)
                        accumulate(input + (v * l->columns + u) * l->channels, weights, row,
                                   l->zero_in, sums[0]);
            store(l, 0, 0, l->channels, output);
            output += l->channels;
        }
}

/* == linear == */
static void multiply_all(const layer *l, const int8_t *restrict input)
{
    for (int i = 0; i < l->channels; i++)
        patch[0][i] = (operand)(input[i] + 128);
    multiply(0, l->weights, l->row, l->bias, l->out_channels);
}

/* == add == */
/* Both inputs are brought to the output's step by a multiplier each and a shift for both. */
static void add(const int8_t *restrict one, const int8_t *restrict other, int8_t *restrict output,
                int count, int zero_one, int zero_other, int multiplier_one, int multiplier_other,
                int shift, int zero_out, int low)
{
    for (int step = 0; step < count; step += LANES)
        for (int i = step; i < step + LANES; i++) {
            const int sum = (one[i] - zero_one) * multiplier_one
                            + (other[i] - zero_other) * multiplier_other;
            output[i] = saturate(((sum + (1 << (shift - 1))) >> shift) + zero_out, low);
        }
}

/* == mean == */
static void average(const int8_t *restrict input, int8_t *restrict output, int pixels, int channels,
                    int32_t multiplier, int shift, int zero_in, int zero_out, int low)
{
    for (int i = 0; i < channels; i++) {
        int sum = 0;
        for (int pixel = 0; pixel < pixels; pixel++)
            sum += input[pixel * channels + i] - zero_in;
        output[i] = saturate(requantize(sum, multiplier, shift) + zero_out, low);
    }
}
