// Clocks a multiply-accumulate (-DMAC=module) once for each line of +stimulus=FILE, which holds
// clear, a and b in hexadecimal, and writes a line with the sum after each.
module bench;
    parameter WIDTH = 8;
    parameter SUM_WIDTH = 32;

    reg clock = 0, clear;
    reg [WIDTH-1:0] a, b;
    wire [SUM_WIDTH-1:0] sum;
    reg [8*1024-1:0] path;
    integer file;

    `MAC mac (.clock(clock), .clear(clear), .a(a), .b(b), .sum(sum));

    initial begin
        if (!$value$plusargs("stimulus=%s", path)) $finish;
        file = $fopen(path, "r");
        while ($fscanf(file, "%h %h %h", clear, a, b) == 3) begin
            #1 clock = 1;
            #1 $display("%h", sum);
            clock = 0;
        end
        $finish;
    end
endmodule
