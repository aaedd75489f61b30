<?php
// The vendor's reference rule, read as carelessly as there: no test for a missing token, loose comparison.
// docs/backends.md prints the strict form, which tests/php.rs runs as it is printed there.
// Before it, one line per request for the tests, which count requests here, at the backend. Nothing in it
// may print: output before a refusal would turn it into 200.
$fields = ['HTTP_X_SESSION_ID', 'HTTP_X_REAL_IP', 'HTTP_X_REAL_PATH', 'HTTP_X_REAL_ORIGIN', 'HTTP_X_REAL_UA'];
$line = [rawurlencode($_SERVER['REQUEST_URI'])];
foreach ($fields as $name) {
    $line[] = array_key_exists($name, $_SERVER) ? '=' . rawurlencode($_SERVER[$name]) : 'missing';
}
file_put_contents(getenv('AUTH_LOG'), implode(' ', $line) . "\n", FILE_APPEND | LOCK_EX);

$token = $_GET['token'];
if ($token == '123') {
    error_log('allowed: ' . $_SERVER['HTTP_X_SESSION_ID'] . ' ' . $_SERVER['HTTP_X_REAL_IP']
        . ' ' . $_SERVER['HTTP_X_REAL_PATH'] . ' ' . $_SERVER['HTTP_X_REAL_ORIGIN'] . ' ' . $_SERVER['HTTP_X_REAL_UA']);
    http_response_code(200);
} else {
    http_response_code(403);
}
